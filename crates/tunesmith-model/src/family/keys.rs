//! Typed access to `config.json`, with errors that name the key, and the checks that hold for every family.

use super::{Family, Names};
use crate::{
    Config, ModelError,
    config::{Activation, Norm, Position, RopeScaling, STORED_VOCAB},
};
use serde_json::{Map, Value};
use std::path::Path;

/// `config.json` and its path.
pub(super) struct Keys<'a> {
    pub(super) path: &'a Path,
    raw: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(path: &'a Path, raw: &'a Map<String, Value>) -> Self {
        Self { path, raw }
    }

    /// The value of `key`; null counts as absent, as in transformers.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.raw.get(key).filter(|v| !v.is_null())
    }

    /// Whether `key` stands there at all, null or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.raw.contains_key(key)
    }

    pub(super) fn bad(&self, key: &str, expected: &str, found: Option<&Value>) -> ModelError {
        ModelError::BadConfig {
            path: self.path.into(),
            key: key.into(),
            expected: expected.into(),
            found: found.map_or("nothing".into(), Value::to_string),
        }
    }

    pub(super) fn unsupported(&self, what: String, supported: &str) -> ModelError {
        ModelError::Unsupported { path: self.path.into(), what, supported: supported.into() }
    }

    pub(super) fn str(&self, key: &str) -> Result<&'a str, ModelError> {
        let value = self.get(key);
        value.and_then(Value::as_str).ok_or_else(|| self.bad(key, "a string", value))
    }

    /// A positive whole number.
    pub(super) fn int(&self, key: &str) -> Result<i64, ModelError> {
        let value = self.get(key);
        let number = value.and_then(Value::as_i64).filter(|&n| n > 0 && n < 1 << 31);
        number.ok_or_else(|| self.bad(key, "a positive whole number", value))
    }

    pub(super) fn int_or(&self, key: &str, default: i64) -> Result<i64, ModelError> {
        if self.get(key).is_some() { self.int(key) } else { Ok(default) }
    }

    pub(super) fn float_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Ok(default),
            value => value
                .and_then(Value::as_f64)
                .filter(|x| x.is_finite() && *x >= 0.0)
                .ok_or_else(|| self.bad(key, "a non-negative number", value)),
        }
    }

    pub(super) fn bool_or(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            value => {
                value.and_then(Value::as_bool).ok_or_else(|| self.bad(key, "true or false", value))
            }
        }
    }

    /// An option that changes the mathematics and that tunesmith does not have must have its neutral value.
    pub(super) fn must_be(&self, key: &str, neutral: &Value) -> Result<(), ModelError> {
        match self.get(key) {
            Some(value)
                if value != neutral && value.as_f64() != neutral.as_f64().or(Some(f64::NAN)) =>
            {
                Err(self.unsupported(format!("`{key}` = {value}"), &format!("`{key}` = {neutral}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn activation(&self, key: &str) -> Result<Activation, ModelError> {
        match self.str(key)? {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            other => Err(self.unsupported(
                format!("`{key}` \"{other}\""),
                "silu, gelu, gelu_new, gelu_pytorch_tanh, relu",
            )),
        }
    }

    /// Rotary settings in either form: `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (4).
    pub(super) fn rotary(&self, default_theta: f64) -> Result<Position, ModelError> {
        let (key, object) = match (self.get("rope_parameters"), self.get("rope_scaling")) {
            (Some(parameters), _) => ("rope_parameters", Some(parameters)),
            (None, scaling) => ("rope_scaling", scaling),
        };
        let theta_inside = object.and_then(|o| o.get("rope_theta")).and_then(Value::as_f64);
        let theta = match theta_inside {
            Some(theta) => theta,
            None => self.float_or("rope_theta", default_theta)?,
        };
        if !(theta.is_finite() && theta > 0.0) {
            return Err(self.bad("rope_theta", "a positive number", Some(&Value::from(theta))));
        }
        let partial = object
            .and_then(|o| o.get("partial_rotary_factor"))
            .or(self.get("partial_rotary_factor"));
        if partial.is_some_and(|p| p.as_f64() != Some(1.0)) {
            return Err(
                self.unsupported("`partial_rotary_factor` other than 1".into(), "full rotation")
            );
        }
        let Some(object) = object else {
            return Ok(Position::Rotary { theta, scaling: RopeScaling::Default });
        };
        let number = |name: &str| {
            let value = object.get(name);
            let pointer = format!("{key}.{name}");
            value
                .and_then(Value::as_f64)
                .filter(|x| *x > 0.0)
                .ok_or_else(|| self.bad(&pointer, "a positive number", value))
        };
        let kind = object
            .get("rope_type")
            .or(object.get("type"))
            .and_then(Value::as_str)
            .unwrap_or("default");
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: number("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: number("original_max_position_embeddings")?,
            },
            other => {
                return Err(self.unsupported(
                    format!("`{key}.rope_type` \"{other}\""),
                    "default, linear, llama3",
                ));
            }
        };
        Ok(Position::Rotary { theta, scaling })
    }

    /// What no family changes; the family's reader fills in the rest.
    pub(super) fn common(&self, family: &Family) -> Result<Config, ModelError> {
        let names: &'static Names = family.names;
        Ok(Config {
            architecture: family.architecture.into(),
            vocab_size: self.int("vocab_size")?,
            stored_vocab_size: self.get(STORED_VOCAB).and_then(Value::as_i64),
            hidden_size: 0,
            intermediate_size: 0,
            n_layer: 0,
            n_head: 0,
            n_kv_head: 0,
            head_dim: 0,
            max_position_embeddings: 0,
            norm: Norm::Rms { eps: 1e-6 },
            position: Position::Learned,
            activation: Activation::Silu,
            gated_mlp: true,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_window: None,
            tie_word_embeddings: false,
            n_labels: None,
            fresh_head: false,
            initializer_range: self.float_or("initializer_range", 0.02)?,
            names,
            raw: Map::new(),
        })
    }

    /// Labels of a classifier: as many as `id2label` names, two where it is absent (transformers' default).
    pub(super) fn n_labels(&self) -> Result<i64, ModelError> {
        match self.get("id2label") {
            None => self.int_or("num_labels", 2),
            Some(Value::Object(labels)) if !labels.is_empty() => Ok(labels.len() as i64),
            labels => Err(self.bad("id2label", "an object of labels", labels)),
        }
    }

    /// Divisibilities that every family needs.
    pub(super) fn check(&self, config: &Config) -> Result<(), ModelError> {
        if config.n_head % config.n_kv_head != 0 {
            let expected = format!("a divisor of the {} attention heads", config.n_head);
            return Err(self.bad(
                "num_key_value_heads",
                &expected,
                Some(&Value::from(config.n_kv_head)),
            ));
        }
        if matches!(config.position, Position::Rotary { .. }) && config.head_dim % 2 != 0 {
            return Err(self.bad(
                "head_dim",
                "an even number",
                Some(&Value::from(config.head_dim)),
            ));
        }
        Ok(())
    }
}
