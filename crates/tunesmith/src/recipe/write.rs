//! The resolved recipe as a TOML file that can be run again: every value, and where it came from as a comment.

use super::Layers;
use std::fmt::Write;

impl Layers {
    /// The text of `recipe.toml`; `header` becomes its first comment lines.
    pub(crate) fn to_toml(&self, header: &[String]) -> String {
        let mut text = String::new();
        for line in header {
            let _ = writeln!(text, "# {}", one_line(line)); // writing to a String cannot fail
        }
        let leaves = self.leaves();
        let width = leaves
            .iter()
            .map(|(key, value, _)| leaf(key).len() + value.to_string().len())
            .max()
            .unwrap_or(0)
            .min(60);
        let mut section = "";
        // Values without a table come first, or TOML would put them into the last one.
        let (top, nested): (Vec<_>, Vec<_>) =
            leaves.iter().partition(|(key, ..)| !key.contains('.'));
        for (key, value, origin) in top.into_iter().chain(nested) {
            let table = key.rsplit_once('.').map_or("", |(table, _)| table);
            if table != section {
                let _ = writeln!(text, "\n[{table}]");
                section = table;
            }
            let pair = format!("{} = {value}", leaf(key));
            let origin = one_line(&origin.to_string());
            let _ = writeln!(text, "{pair:<0$}  # {origin}", width + 3);
        }
        text
    }
}

/// A comment ends where its line does.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn leaf(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use crate::recipe::{Layers, Origin, Recipe};

    #[test]
    fn what_is_written_is_what_was_run() {
        let mut layers = Layers::new().unwrap();
        layers.set("schedule.lr", "3e-4", Origin::Flag("--lr".into())).unwrap();
        layers
            .set("samples.prompts", "[\"a # b\", 'say \"hi\"']", Origin::Recipe("r.toml".into()))
            .unwrap();
        let rows = "{ embed_tokens = [1, 2], lm_head = [2] }";
        layers.set("adapter.method", "lora", Origin::Default).unwrap();
        layers.set("adapter.trainable_token_indices", rows, Origin::Default).unwrap();
        let text = layers.to_toml(&["a run".into()]);
        assert!(text.contains(&format!("trainable_token_indices = {rows}")), "{text}");
        assert!(text.contains("lr = 0.0003"), "{text}");
        assert!(text.contains("# flag --lr"), "{text}");
        assert_eq!(toml::from_str::<Recipe>(&text).unwrap(), layers.resolve().unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let mut again = Layers::new().unwrap();
        again.file(file.path()).unwrap();
        assert_eq!(again.resolve().unwrap(), layers.resolve().unwrap());
    }
}
