//! What an adapter is made with: the words of PEFT's `LoraConfig`, and the checks that need no model.

use super::TokenIndices;
use crate::ModelError;
use serde::{Deserialize, Serialize};

/// Settings of a LoRA adapter (Hu et al. 2021) and its kin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)] // no check of unknown keys: a recipe nests it flat, and checks its keys itself
pub struct LoraConfig {
    /// Rank of the update.
    pub r: usize,
    /// The update is scaled by alpha / r; with rsLoRA by alpha / √r.
    pub alpha: f64,
    /// Share of an adapted layer's inputs that are dropped before A while training.
    pub dropout: f64,
    /// Which layers: names, or one string that is `all-linear` or a regular expression of whole names.
    pub target_modules: Modules,
    /// Layers left out, in the same words; empty: none.
    pub exclude_modules: Modules,
    /// Layers of another rank, as `"regular expression = rank"`; the first that matches the end of a name counts.
    pub rank_pattern: Vec<Pattern>,
    /// Layers of another alpha, likewise.
    pub alpha_pattern: Vec<Pattern>,
    /// Numbers of the blocks to adapt; empty: all. Only where `target_modules` is a list.
    pub layers_to_transform: Vec<i64>,
    /// What stands before a block's number in a name, such as `layers`; empty: anything.
    pub layers_pattern: Vec<String>,
    /// Modules trained whole and saved with the adapter, such as `lm_head`.
    pub modules_to_save: Vec<String>,
    /// Tokens whose rows of the embedding alone are trained; with names of modules, those of the head, too.
    pub trainable_token_indices: TokenIndices,
    /// Which biases are trained.
    pub bias: Bias,
    /// rsLoRA (Kalajdzievski 2023): the scale is alpha / √r.
    pub use_rslora: bool,
    /// DoRA (Liu et al. 2024): the length of each row is trained on its own.
    pub use_dora: bool,
    /// What A and B begin with.
    pub init: LoraInit,
}

/// Module names, or a pattern of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Modules {
    /// A name, or the end of one after a dot.
    Names(Vec<String>),
    /// `all-linear`, or a regular expression of whole names.
    Pattern(String),
}

/// Which biases are trained and saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// Every bias of the model.
    All,
    /// Those of the adapted layers.
    LoraOnly,
}

/// Beginnings of A and B.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraInit {
    /// A uniform as a linear layer's weights are (He et al. 2015, a = √5), B zero.
    #[default]
    Kaiming,
    /// A ~ N(0, 1/r²), B zero.
    Gaussian,
    /// The r largest singular directions of W (PiSSA, Meng et al. 2024): they are trained, the rest stays. Saved as
    /// plain LoRA of twice the rank, so that it fits the untouched base.
    Pissa,
}

/// A regular expression and a number: `"q_proj = 4"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    /// Matches the end of a module's name, from a dot on.
    pub pattern: String,
    /// The rank or the alpha.
    pub value: f64,
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.rsplit_once('=').and_then(|(pattern, value)| {
            Some(Self { pattern: pattern.trim().to_owned(), value: value.trim().parse().ok()? })
        });
        parsed.ok_or_else(|| format!("expected \"pattern = number\", found {text:?}"))
    }
}

impl From<Pattern> for String {
    fn from(Pattern { pattern, value }: Pattern) -> Self {
        format!("{pattern} = {value}")
    }
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 16,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: Modules::Pattern(ALL_LINEAR.into()),
            exclude_modules: Modules::Names(Vec::new()),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            trainable_token_indices: TokenIndices::default(),
            bias: Bias::default(),
            use_rslora: false,
            use_dora: false,
            init: LoraInit::default(),
        }
    }
}

/// PEFT's word for every linear layer but the head.
pub(crate) const ALL_LINEAR: &str = "all-linear";

impl Modules {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Names(names) => names.is_empty(),
            Self::Pattern(pattern) => pattern.is_empty(),
        }
    }

    pub(crate) fn is_all_linear(&self) -> bool {
        matches!(self, Self::Pattern(pattern) if pattern.eq_ignore_ascii_case(ALL_LINEAR))
    }
}

impl LoraConfig {
    /// The first setting that no model could work with.
    ///
    /// # Errors
    /// That setting, with what it should be.
    pub fn check(&self) -> Result<(), ModelError> {
        let whole = |p: &Pattern| p.value >= 1.0 && p.value.fract() == 0.0;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let bad_rank = self.rank_pattern.iter().find(|p| !whole(p));
        let bad_alpha = self.alpha_pattern.iter().find(|p| !positive(p.value));
        let layers = !self.layers_to_transform.is_empty();
        let listed = matches!(self.target_modules, Modules::Names(_));
        let rules = [
            (self.r >= 1, "r", "a rank of at least 1", self.r.to_string()),
            (positive(self.alpha), "alpha", "a number above 0", self.alpha.to_string()),
            (
                (0.0..1.0).contains(&self.dropout),
                "dropout",
                "a share from 0 to below 1",
                self.dropout.to_string(),
            ),
            (
                !self.target_modules.is_empty(),
                "target_modules",
                "`all-linear`, names or a regular expression",
                "none".into(),
            ),
            (
                bad_rank.is_none(),
                "rank_pattern",
                "ranks of at least 1",
                bad_rank.map_or(String::new(), |p| String::from(p.clone())),
            ),
            (
                bad_alpha.is_none(),
                "alpha_pattern",
                "numbers above 0",
                bad_alpha.map_or(String::new(), |p| String::from(p.clone())),
            ),
            (
                !layers || listed,
                "layers_to_transform",
                "a list of names as `target_modules`",
                "a pattern".into(),
            ),
            (
                layers || self.layers_pattern.is_empty(),
                "layers_pattern",
                "`layers_to_transform` beside it",
                "none".into(),
            ),
        ];
        match rules.into_iter().find(|(good, ..)| !good) {
            None => self.trainable_token_indices.check(),
            Some((_, key, expected, found)) => Err(ModelError::BadAdapter {
                place: format!("`{key}`"),
                reason: format!("expected {expected}, found {found}"),
            }),
        }
    }
}
