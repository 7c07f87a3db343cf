//! The token goes to the endpoint and nowhere else: not to the server of a redirect, not into a log.

#![expect(clippy::unwrap_used, reason = "a test may end at the first surprise")]

mod server;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use server::{COMMIT, Fault, Server};
use tunesmith_hub::{Hub, HubConfig, HubError, Token};

const CANARY: &str = "hf_canaryCANARYcanary";

fn hub(server: &Server, cache: &std::path::Path) -> Hub {
    Hub::new(HubConfig {
        endpoint: server.url(),
        cache: cache.to_path_buf(),
        token: Some(Token::new(CANARY).unwrap()),
        offline: false,
        answer_within: Duration::from_secs(5),
        silence: Duration::from_secs(5),
    })
    .unwrap()
}

fn model() -> Server {
    Server::start().file("config.json", b"{}").large("model.safetensors", b"weights")
}

#[test]
fn redirects_keep_the_token_at_home() {
    // The storage server holds the same file at another port; `localhost` is another host at that.
    for host in ["127.0.0.1", "localhost"] {
        let (home, storage) = (model(), Server::start().large("model.safetensors", b"weights"));
        let to = format!("http://{host}:{}/blob/model.safetensors?Signature=canary", storage.port);
        home.fault("/model.safetensors", Fault::Redirect(to));
        let cache = tempfile::tempdir().unwrap();
        let dir = hub(&home, cache.path()).model("o/n", None).unwrap();
        assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), b"weights");
        let (at_home, away) = (home.asked(), storage.asked());
        assert!(
            at_home
                .iter()
                .all(|asked| asked.headers["authorization"] == format!("Bearer {CANARY}"))
        );
        assert!(!away.is_empty());
        for asked in away {
            assert!(!format!("{asked:?}").contains("hf_canary"), "{asked:?}");
            assert!(!asked.headers.contains_key("referer"), "{asked:?}");
        }
    }
}

#[test]
fn a_redirect_within_the_endpoint_keeps_it() {
    let home = model();
    home.fault("/o/n/revision/main", Fault::Redirect(format!("/api/models/O/N/revision/{COMMIT}")));
    let cache = tempfile::tempdir().unwrap();
    hub(&home, cache.path()).model("o/n", None).unwrap();
    assert!(home.asked().iter().all(|asked| asked.headers.contains_key("authorization")));
}

#[test]
fn listings_and_lookups_do_not_carry_it_away_either() {
    let away = model();
    for path in ["/revision/main", &format!("/tree/{COMMIT}")] {
        let home = model();
        let prefix = if path.starts_with("/tree") { "/api/models/o/n" } else { "/api/models/x/y" };
        home.fault(path, Fault::Redirect(format!("{}{prefix}{path}", away.url())));
        let cache = tempfile::tempdir().unwrap();
        hub(&home, cache.path()).model("o/n", None).unwrap();
    }
    let home = model();
    home.next_page(&format!("{}/api/models/o/n/tree/{COMMIT}?page=2", away.url()));
    let cache = tempfile::tempdir().unwrap();
    let error = hub(&home, cache.path()).model("o/n", None).unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error}");
    let asked = away.asked();
    assert_eq!(asked.len(), 2, "the next page was not asked for: {asked:?}");
    assert!(asked.iter().all(|asked| !asked.headers.contains_key("authorization")));
}

#[test]
fn a_refusal_by_the_storage_server_blames_no_token_and_shows_no_signature() {
    let (home, storage) = (model(), Server::start());
    home.fault(
        "/model.safetensors",
        Fault::Redirect(format!("{}/m?Signature=canary", storage.url())),
    );
    storage.fault("/m", Fault::Status(403, vec![], "<Error>Request has expired</Error>"));
    let cache = tempfile::tempdir().unwrap();
    let error = hub(&home, cache.path()).model("o/n", None).unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}

#[test]
fn no_token_means_none() {
    let home = model();
    let cache = tempfile::tempdir().unwrap();
    let config = HubConfig {
        token: None,
        ..HubConfig::from_lookup(|n| (n == "HOME").then(|| "/nowhere".into())).unwrap()
    };
    let hub =
        Hub::new(HubConfig { endpoint: home.url(), cache: cache.path().into(), ..config }).unwrap();
    hub.model("o/n", None).unwrap();
    assert!(home.asked().iter().all(|asked| !asked.headers.contains_key("authorization")));
}

/// A log that keeps everything.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn logs_at_the_finest_level_do_not_hold_it() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let home = model();
    home.fault("/model.safetensors", Fault::Cut { after: 3, times: 1 });
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&home, cache.path());
    hub.model("o/n", None).unwrap();
    home.fault(
        "/revision/main",
        Fault::Status(401, vec![("X-Error-Message", format!("no: {CANARY}"))], ""),
    );
    let error = hub.model("o/n", None).unwrap_err();
    tracing::error!("{error} {error:?} {hub:?}");
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).to_string();
    assert!(
        text.contains("hf_hub") && text.contains("hyper") && text.contains("broke off"),
        "the log is not what it should be"
    );
    assert!(!text.contains("hf_canary"), "the token is in the log");
}
