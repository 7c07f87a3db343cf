//! One row of Arrow columns as JSON values, so that every file format meets the row shapes in the same form.

use super::{Faulty, Row};
use crate::fault::Fault;
use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow::datatypes::*;
use serde_json::{Map, Number, Value};

/// The places of the wanted columns (all without a list).
pub(super) fn wanted(schema: &Schema, wanted: Option<&[String]>) -> Vec<usize> {
    let is_wanted = |name: &String| wanted.is_none_or(|wanted| wanted.contains(name));
    let fields = schema.fields().iter().enumerate();
    fields.filter(|(_, field)| is_wanted(field.name())).map(|(place, _)| place).collect()
}

/// A row of decoded columns.
pub(super) fn row(batch: &RecordBatch, row: usize) -> Faulty<Row> {
    let schema = batch.schema();
    let cells = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let value = value(column, row).map_err(|fault| below(field.name(), fault))?;
        Ok((field.name().clone(), value))
    });
    cells.collect()
}

/// The value of `array` at `row`.
fn value(array: &ArrayRef, row: usize) -> Faulty<Value> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    macro_rules! number {
        ($kind:ty) => {
            Value::from(array.as_primitive::<$kind>().value(row))
        };
    }
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Utf8 => Value::from(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Value::from(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Value::from(array.as_string_view().value(row)),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(row).into())?,
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row))?,
        DataType::List(_) => elements(&array.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => elements(&array.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(..) => elements(&array.as_fixed_size_list().value(row))?,
        DataType::Struct(_) => Value::Object(fields(array.as_struct(), row)?),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            value(dictionary.values(), dictionary.normalized_keys()[row])?
        }
        other => return Err((String::new(), Fault::ColumnType { found: other.to_string() })),
    })
}

fn fields(array: &StructArray, row: usize) -> Faulty<Map<String, Value>> {
    let mut object = Map::new();
    for (field, column) in array.fields().iter().zip(array.columns()) {
        let value = value(column, row).map_err(|fault| below(field.name(), fault))?;
        object.insert(field.name().clone(), value);
    }
    Ok(object)
}

fn elements(array: &ArrayRef) -> Faulty<Value> {
    let element = |row| value(array, row).map_err(|fault| below(&row.to_string(), fault));
    (0..array.len()).map(element).collect::<Faulty<Vec<_>>>().map(Value::Array)
}

/// A weight, a margin or a label that is NaN must not pass for one that is absent.
fn float(number: f64) -> Faulty<Value> {
    let fault = || (String::new(), Fault::NotFinite { found: number });
    Number::from_f64(number).map(Value::Number).ok_or_else(fault)
}

fn below(step: &str, (pointer, fault): (String, Fault)) -> (String, Fault) {
    (format!("/{step}{pointer}"), fault)
}
