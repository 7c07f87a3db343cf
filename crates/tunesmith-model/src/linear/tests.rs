//! The handle of nodes against its twin.

use super::*;
use crate::DropoutKey;
use tch::Device;

fn randn(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

fn param(name: &str, role: Role, shape: &[i64]) -> Rc<Param> {
    Param::new(name.into(), role, randn(shape), true)
}

/// Every form of a layer: 3 inputs, 4 outputs, rank 2.
fn layer(transposed: bool, bias: bool, lora: bool, dora: bool, dropout: f64) -> Linear {
    let size = if transposed { [3, 4] } else { [4, 3] };
    // Under an adapter the matrix is frozen.
    let w = Param::new("w.weight".into(), Role::Projection, randn(&size), !lora);
    let mut linear = Linear::around("w", w);
    linear.transposed = transposed;
    linear.bias = bias.then(|| Place::new(param("w.bias", Role::Bias, &[4])));
    if lora {
        let a = param("a", Role::LoraA, &[2, 3]);
        let b = param("b", Role::LoraB, &[4, 2]);
        let magnitude = dora.then(|| param("m", Role::Magnitude, &[4]));
        let initial = dropout.gt(&0.0).then(|| (randn(&[2, 3]), randn(&[4, 2])));
        linear.attach(0, Lora { a, b, magnitude, scale: 1.5, dropout, initial });
    }
    linear
}

fn close(what: &str, a: &Tensor, b: &Tensor) {
    let error = ((a - b).abs().max() / b.abs().max()).double_value(&[]);
    assert!(error <= 1e-5, "{what}: relative difference {error:e}");
}

/// The handle that nodes take computes what autograd makes of the plain twin: output and every gradient.
#[test]
fn an_op_is_its_twin() {
    tch::manual_seed(3);
    let forms = [
        (false, false, false, false, 0.0),
        (true, true, false, false, 0.0),
        (false, true, true, false, 0.0),
        (true, false, true, false, 0.3),
        (false, true, true, true, 0.0),
        (true, true, true, true, 0.3),
    ];
    let forms = forms.map(|form| (form, false)).into_iter();
    for ((transposed, bias, lora, dora, dropout), rows) in
        forms.chain([((false, false, false, false, 0.0), true)])
    {
        let what = format!("{transposed} {bias} {lora} {dora} {dropout} {rows}");
        let mut linear = layer(transposed, bias, lora, dora, dropout);
        if rows {
            // Two of its four rows in another order; the matrix stands still.
            let w = Param::new("w.weight".into(), Role::Head, randn(&[4, 3]), false);
            linear = Linear::around("w", w);
            let rows = param("rows", Role::Head, &[2, 3]);
            linear.attach_rows(0, TokenRows::new(rows, &[3, 1], 4, Device::Cpu));
        }
        let key = DropoutKey { seed: 1, step: 2, micro_batch: 3 };
        let pass = Pass { dropout: Some(key), ..Pass::default() };
        let (x, dy) = (randn(&[5, 3]).set_requires_grad(true), randn(&[5, 4]));

        let y = linear.forward(&x, &pass);
        let Weight::Dense(weight) = &linear.weight else { panic!("dense") };
        let mut params: Vec<&Rc<Param>> = linear.bias.iter().map(Place::base).collect();
        params.extend((!lora && !rows).then_some(weight.base()));
        params.extend(linear.rows.first().map(|(_, rows)| &rows.rows));
        if let Some((_, lora)) = linear.loras.first() {
            params.extend([&lora.a, &lora.b].into_iter().chain(&lora.magnitude));
        }
        let mut leaves: Vec<&Tensor> = params.iter().map(|param| &param.tensor).collect();
        leaves.push(&x);
        let expected = Tensor::run_backward(&[(&y * &dy).sum(Kind::Float)], &leaves, false, false);

        let op = linear.op(&pass);
        assert_eq!(op.leaves().len(), params.len(), "{what}");
        let input = x.detach();
        let (found, saved) = op.forward(&input);
        close(&what, &found, &y.detach());
        let mut dx = Dx::wanted(true);
        op.backward(saved, &input, &dy, &mut dx);
        let dx = dx.take().unwrap();
        close(&what, &dx, &expected[params.len()]);
        for (param, expected) in params.iter().zip(&expected) {
            let found = param.main_grad().take().unwrap();
            close(&format!("{what}: {}", param.name), &found, expected);
        }
    }
}

#[test]
fn dropout_is_named_and_an_adapter_can_be_switched_off() {
    tch::manual_seed(4);
    let (linear, x) = (layer(false, true, true, false, 0.5), randn(&[50, 3]));
    let with = |adapter, step: Option<u64>| {
        let dropout = step.map(|step| DropoutKey { seed: 1, step, micro_batch: 0 });
        let pass = Pass { adapter, dropout, ..Pass::default() };
        tch::no_grad(|| linear.forward(&x, &pass))
    };
    assert_eq!(with(Some(0), Some(1)), with(Some(0), Some(1)));
    assert_ne!(with(Some(0), Some(1)), with(Some(0), Some(2)));
    assert_ne!(with(Some(0), None), with(Some(0), Some(2)));
    let Weight::Dense(weight) = &linear.weight else { panic!("dense") };
    let bias = linear.bias.as_ref().map(|bias| &bias.base().tensor);
    let base = tch::no_grad(|| x.linear(&weight.base().tensor, bias));
    assert_eq!(with(None, None), base);
    assert_eq!(with(Some(1), None), base, "no such adapter");
}
