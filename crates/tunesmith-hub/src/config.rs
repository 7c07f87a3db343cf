//! The settings of the Hugging Face tools, read once from the environment.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `HF_ENDPOINT` | address of the Hub | `https://huggingface.co` |
//! | `HF_TOKEN`, `HF_TOKEN_PATH` | token, or a file that holds it | the file `token` in `HF_HOME` |
//! | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | `1`: send no token | off |
//! | `HF_HOME` | folder of everything | `XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface` |
//! | `HF_HUB_CACHE` | folder of repositories | `hub` in `HF_HOME` |
//! | `HF_HUB_OFFLINE` | `1`, `true`, `yes`, `on`: never use the network | off |
//! | `HF_HUB_ETAG_TIMEOUT` | seconds until the Hub counts as unreachable | 5 |
//! | `HF_HUB_DOWNLOAD_TIMEOUT` | seconds of silence until a download is continued anew | 10 |

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::HubError;

/// A Hub token. `Debug` shows only that there is one.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes a token; surrounding white space is dropped.
    ///
    /// # Errors
    /// [`HubError::Setting`] if it is empty or holds what an HTTP header cannot; the message does not repeat it.
    pub fn new(text: &str) -> Result<Token, HubError> {
        let text = text.trim();
        let sendable = !text.is_empty()
            && HeaderValue::from_str(text).is_ok_and(|value| value.to_str().is_ok());
        match sendable {
            true => Ok(Token(text.to_string())),
            false => Err(HubError::Setting {
                name: "HF_TOKEN",
                reason: "it is empty or holds characters that no HTTP header can carry".to_string(),
                help: "a token is one word such as `hf_…`, from the Hub's settings page",
            }),
        }
    }

    /// The secret itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Where the Hub is, where the cache is, and how patient to be.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Address of the Hub, without a final slash.
    pub endpoint: String,
    /// Folder of the repositories: `models--owner--name` and the like.
    pub cache: PathBuf,
    /// Sent to the endpoint, and to nobody else.
    pub token: Option<Token>,
    /// Never use the network.
    pub offline: bool,
    /// How long the first answer may take before the Hub counts as unreachable.
    pub answer_within: Duration,
    /// How long a download may be silent before it is continued with a new connection.
    pub silence: Duration,
}

impl HubConfig {
    /// Reads the settings from the environment.
    ///
    /// # Errors
    /// [`HubError::Setting`] for a setting that cannot be used.
    pub fn from_env() -> Result<HubConfig, HubError> {
        HubConfig::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads the settings from any source of variables. An empty variable counts as unset.
    ///
    /// # Errors
    /// [`HubError::Setting`] for a setting that cannot be used.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<HubConfig, HubError> {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| get(name).map(|value| expand_home(value, &lookup));

        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| path("HOME").map(|home| home.join(".cache/huggingface")));
        let home = home.ok_or(HubError::Setting {
            name: "HF_HOME",
            reason: "neither it nor HOME is set".to_string(),
            help: "set HF_HOME to a folder for downloads",
        })?;
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| home.join("hub"));

        let token = match get("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_yes(&value)) {
            true => None,
            false => get("HF_TOKEN").or_else(|| {
                let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
                std::fs::read_to_string(file).ok().filter(|text| !text.trim().is_empty())
            }),
        };
        Ok(HubConfig {
            endpoint: endpoint(get("HF_ENDPOINT"))?,
            cache,
            token: token.map(|text| Token::new(&text)).transpose()?,
            offline: get("HF_HUB_OFFLINE").is_some_and(|value| is_yes(&value)),
            answer_within: seconds("HF_HUB_ETAG_TIMEOUT", get("HF_HUB_ETAG_TIMEOUT"), 5.0)?,
            silence: seconds("HF_HUB_DOWNLOAD_TIMEOUT", get("HF_HUB_DOWNLOAD_TIMEOUT"), 10.0)?,
        })
    }
}

/// Checks the address; a name and password in it would end up in messages, so they are refused.
fn endpoint(value: Option<String>) -> Result<String, HubError> {
    let value = value.unwrap_or_else(|| "https://huggingface.co".to_string());
    let fail = |reason: &str| HubError::Setting {
        name: "HF_ENDPOINT",
        reason: reason.to_string(),
        help: "write an address such as https://huggingface.co",
    };
    let url = Url::parse(value.trim()).map_err(|error| fail(&error.to_string()))?;
    match &url {
        url if !matches!(url.scheme(), "http" | "https") => {
            Err(fail("it is neither http nor https"))
        }
        url if !url.username().is_empty() || url.password().is_some() => Err(fail(
            "it holds a user name or password, which would show up in messages; HF_TOKEN is the place for secrets",
        )),
        url if url.query().is_some() || url.fragment().is_some() => {
            Err(fail("it holds a `?` or `#`"))
        }
        _ => Ok(value.trim().trim_end_matches('/').to_string()),
    }
}

fn seconds(name: &'static str, value: Option<String>, default: f64) -> Result<Duration, HubError> {
    let parsed = value.as_deref().map_or(Ok(default), |text| text.trim().parse::<f64>());
    match parsed {
        Ok(number) if (0.1..=3600.0).contains(&number) => Ok(Duration::from_secs_f64(number)),
        _ => Err(HubError::Setting {
            name,
            reason: format!(
                "expected seconds from 0.1 to 3600, found {:?}",
                value.unwrap_or_default()
            ),
            help: "write a number such as 10",
        }),
    }
}

fn is_yes(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}

fn expand_home(value: String, lookup: &impl Fn(&str) -> Option<String>) -> PathBuf {
    match (value.strip_prefix("~/"), lookup("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<HubConfig, HubError> {
        HubConfig::from_lookup(|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn cache_folders() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "/f")], "/f/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub"),
            (&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HOME", "/f"), ("HF_HUB_CACHE", " ")], "/f/hub"),
        ];
        for (vars, expected) in cases {
            assert_eq!(config(vars).unwrap().cache, PathBuf::from(expected), "{vars:?}");
        }
        assert!(matches!(config(&[]), Err(HubError::Setting { name: "HF_HOME", .. })));
    }

    #[test]
    fn offline_words() {
        for (word, expected) in
            [("1", true), ("TRUE", true), ("yes", true), ("on", true), ("0", false), ("", false)]
        {
            assert_eq!(
                config(&[("HOME", "/h"), ("HF_HUB_OFFLINE", word)]).unwrap().offline,
                expected,
                "{word:?}"
            );
        }
    }

    #[test]
    fn tokens() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "from-file\n").unwrap();
        let home = home.path().to_str().unwrap();
        let reveal = |vars: &[(&str, &str)]| {
            config(vars).unwrap().token.map(|token| token.reveal().to_string())
        };
        assert_eq!(reveal(&[("HF_HOME", home)]).as_deref(), Some("from-file"));
        assert_eq!(
            reveal(&[("HF_HOME", home), ("HF_TOKEN", " from-env ")]).as_deref(),
            Some("from-env")
        );
        assert_eq!(reveal(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(reveal(&[("HF_HOME", "/nowhere")]), None);
        let error = config(&[("HF_HOME", "/f"), ("HF_TOKEN", "can\nary")]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("ary"));
    }

    #[test]
    fn endpoints() {
        let endpoint =
            |value| config(&[("HOME", "/h"), ("HF_ENDPOINT", value)]).map(|config| config.endpoint);
        assert_eq!(endpoint("http://mirror:8080/hf/").unwrap(), "http://mirror:8080/hf");
        assert_eq!(config(&[("HOME", "/h")]).unwrap().endpoint, "https://huggingface.co");
        for bad in ["huggingface.co", "file:///x", "https://me:canary@mirror", "https://x/?a=b"] {
            let error = endpoint(bad).unwrap_err();
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
