//! `Hub` against a server of the tests' own: what is fetched, what is not fetched twice, and each refusal.

#![expect(clippy::unwrap_used, reason = "a test may end at the first surprise")]

mod server;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use server::{COMMIT, Fault, Server, entry, git_sha1, sha256};
use tunesmith_hub::{Hub, HubConfig, HubError, Token};

const CANARY: &str = "hf_canaryCANARYcanary";

fn config(endpoint: &str, cache: &Path) -> HubConfig {
    HubConfig {
        endpoint: endpoint.to_string(),
        cache: cache.to_path_buf(),
        token: Some(Token::new(CANARY).unwrap()),
        offline: false,
        answer_within: Duration::from_secs(5),
        silence: Duration::from_secs(1),
    }
}

struct World {
    server: Server,
    home: tempfile::TempDir,
}

impl World {
    fn new(server: Server) -> World {
        World { server, home: tempfile::tempdir().unwrap() }
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("hub")
    }

    fn hub(&self) -> Hub {
        Hub::new(config(&self.server.url(), &self.cache())).unwrap()
    }

    fn offline(&self) -> Hub {
        Hub::new(HubConfig { offline: true, ..config(&self.server.url(), &self.cache()) }).unwrap()
    }
}

fn big() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| i.to_le_bytes()).collect()
}

fn small_model() -> Server {
    Server::start()
        .file("README.md", b"hello")
        .file("config.json", b"{}")
        .file("tokenizer.json", b"{\"a\":1}")
        .file("chat_template.jinja", b"{{ messages }}")
        .file("pytorch_model.bin", b"pickle")
        .large("model.safetensors", &big())
}

fn listed(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// No text that a user or a log can see holds the token.
fn fails(result: Result<impl std::fmt::Debug, HubError>) -> HubError {
    let error = result.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains("canary"), "the token is in {text}");
    assert!(error.to_string().contains("\nhelp: "), "no way out in {error}");
    error
}

#[test]
fn a_model_arrives_in_the_standard_layout_and_is_not_fetched_twice() {
    let world = World::new(small_model());
    let dir = world.hub().model("o/n", None).unwrap();
    let repo = world.cache().join("models--o--n");
    assert_eq!(dir, repo.join("snapshots").join(COMMIT));
    assert_eq!(
        listed(&dir),
        ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    );
    assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), big());
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read(repo.join("blobs").join(sha256(&big()))).unwrap(), big());
    assert!(repo.join("blobs").join(git_sha1(b"{}")).is_file());
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(dir.join("model.safetensors")).unwrap(),
        Path::new("../../blobs").join(sha256(&big()))
    );

    world.server.asked();
    assert_eq!(world.hub().model("o/n", None).unwrap(), dir);
    let asked = world.server.asked();
    assert_eq!(asked.len(), 1, "a branch is looked up, nothing else: {asked:?}");
    assert_eq!(world.hub().model("o/n", Some(COMMIT)).unwrap(), dir);
    assert_eq!(world.offline().model("o/n", None).unwrap(), dir);
    assert!(world.server.asked().is_empty(), "a known commit needs no network");
}

#[test]
fn a_new_commit_brings_only_what_changed() {
    let world = World::new(small_model());
    world.hub().model("o/n", None).unwrap();
    let next = "f".repeat(40);
    world.server.commit(&next);
    world.server.asked();
    let dir = world.hub().model("o/n", None).unwrap();
    assert!(dir.ends_with(&next));
    assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), big());
    assert!(
        world.server.asked().iter().all(|asked| !asked.path.contains("/resolve/")),
        "the blobs were there"
    );
}

#[test]
fn shards_come_by_their_index() {
    let index = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    let server = Server::start()
        .file("config.json", b"{}")
        .file("model.safetensors.index.json", index)
        .large("consolidated.safetensors", b"again")
        .large("model-00001-of-00002.safetensors", b"one")
        .large("model-00002-of-00002.safetensors", b"two");
    let world = World::new(server);
    let dir = world.hub().model("o/n", None).unwrap();
    assert!(dir.join("model-00002-of-00002.safetensors").is_file());
    assert!(!dir.join("consolidated.safetensors").exists());
    std::fs::remove_file(dir.join("model-00002-of-00002.safetensors")).unwrap();
    match fails(world.offline().model("o/n", Some("main"))) {
        HubError::Offline { missing, .. } => {
            assert_eq!(missing, "model-00002-of-00002.safetensors")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_index_that_names_a_missing_shard_is_an_error() {
    let index = br#"{"weight_map":{"a":"model-00009.safetensors"}}"#;
    let server =
        Server::start().file("config.json", b"{}").file("model.safetensors.index.json", index);
    match fails(World::new(server).hub().model("o/n", None)) {
        HubError::FileNotFound { wanted, .. } => assert_eq!(wanted, "model-00009.safetensors"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pickles_are_refused_before_anything_is_fetched() {
    let server = Server::start().file("config.json", b"{}").large("pytorch_model.bin", b"pickle");
    let world = World::new(server);
    match fails(world.hub().model("o/n", None)) {
        HubError::OnlyPickles { files, .. } => assert_eq!(files, ["pytorch_model.bin"]),
        other => panic!("{other:?}"),
    }
    assert!(world.server.asked().iter().all(|asked| !asked.path.contains("/resolve/")));
}

#[test]
fn a_cache_that_another_tool_filled_is_used() {
    let world = World::new(small_model());
    let dir = world.hub().model("o/n", None).unwrap();
    std::fs::remove_dir_all(world.cache().join("models--o--n/.tunesmith")).unwrap();
    world.server.asked();
    assert_eq!(world.hub().model("o/n", Some(COMMIT)).unwrap(), dir);
    assert_eq!(world.offline().model("o/n", None).unwrap(), dir);
    assert!(world.server.asked().is_empty());
    // Without its tokenizer the snapshot may be a part only: the Hub is asked, and the file comes.
    std::fs::remove_file(dir.join("tokenizer.json")).unwrap();
    assert_eq!(world.hub().model("o/n", Some(COMMIT)).unwrap(), dir);
    assert!(dir.join("tokenizer.json").is_file());
}

#[test]
fn data_sets_by_pattern() {
    let server = Server::start()
        .file("README.md", b"x")
        .large("data/test-0.parquet", b"test")
        .large("data/train-1.parquet", b"b")
        .large("data/train-0.parquet", b"a");
    server.next_page(&format!(
        "{}/api/datasets/o/n/tree/{COMMIT}?recursive=true&page=2",
        server.url()
    ));
    let world = World::new(server);
    let want = ["data/train-*.parquet".to_string()];
    let files = world.hub().dataset("o/n", None, &want).unwrap();
    let top = world.cache().join("datasets--o--n/snapshots").join(COMMIT);
    assert_eq!(files, [top.join("data/train-0.parquet"), top.join("data/train-1.parquet")]);
    assert_eq!(std::fs::read(&files[1]).unwrap(), b"b");
    assert_eq!(world.offline().dataset("o/n", None, &want).unwrap(), files);
    match fails(world.hub().dataset("o/n", None, &["data/trian-*.parquet".into()])) {
        HubError::FileNotFound { wanted, near, total, .. } => {
            assert_eq!((wanted.as_str(), total), ("data/trian-*.parquet", 4));
            assert!(near[0].starts_with("data/train-"), "{near:?}");
        }
        other => panic!("{other:?}"),
    }
    match fails(world.offline().dataset("o/n", None, &["data/test*".into()])) {
        HubError::Offline { missing, .. } => assert_eq!(missing, "data/test-0.parquet"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn broken_downloads_go_on_where_they_stopped() {
    for fault in [Fault::Cut { after: 500_000, times: 2 }, Fault::Stall { after: 700_000 }] {
        let world = World::new(small_model());
        world.server.fault("model.safetensors", fault.clone());
        let dir = world.hub().model("o/n", None).unwrap();
        assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), big(), "{fault:?}");
        let asked = world.server.asked();
        let ranges: Vec<&String> =
            asked.iter().filter_map(|asked| asked.headers.get("range")).collect();
        assert!(
            !ranges.is_empty() && ranges.iter().all(|range| *range != "bytes=0-1199999"),
            "{ranges:?}"
        );
    }
}

#[test]
fn the_next_run_continues_what_the_last_one_left() {
    let world = World::new(small_model());
    let blobs = world.cache().join("models--o--n/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let left = blobs.join(format!("{}.incomplete", sha256(&big())));
    std::fs::write(&left, &big()[..1_000_000]).unwrap();
    world.hub().model("o/n", None).unwrap();
    let ranges: Vec<String> =
        world.server.asked().iter().filter_map(|a| a.headers.get("range").cloned()).collect();
    assert_eq!(ranges, ["bytes=1000000-1199999"]);
    assert!(!left.exists());
    // A leftover that is not the beginning of the file is found out by the hash, and replaced.
    std::fs::remove_dir_all(world.cache()).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(&left, vec![7; 1_000_000]).unwrap();
    let dir = world.hub().model("o/n", None).unwrap();
    assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), big());
}

#[test]
fn a_server_that_ignores_ranges_is_noticed() {
    let world = World::new(small_model());
    world.server.fault("model.safetensors", Fault::NoRanges { after: 400_000 });
    let dir = world.hub().model("o/n", None).unwrap();
    assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), big());
}

#[test]
fn damage_gets_no_name() {
    let world = World::new(small_model());
    world.server.fault("config.json", Fault::Garble);
    assert!(matches!(fails(world.hub().model("o/n", None)), HubError::Damaged { .. }));
    assert!(!world.cache().join("models--o--n/blobs").join(git_sha1(b"{}")).exists());
    world.server.heal();
    world.hub().model("o/n", None).unwrap();
}

#[test]
fn a_truncated_blob_is_fetched_again() {
    let world = World::new(small_model());
    let dir = world.hub().model("o/n", None).unwrap();
    let blob = world.cache().join("models--o--n/blobs").join(sha256(&big()));
    std::fs::write(&blob, &big()[..1000]).unwrap();
    assert!(matches!(fails(world.offline().model("o/n", None)), HubError::Offline { .. }));
    assert_eq!(world.hub().model("o/n", Some(COMMIT)).unwrap(), dir);
    assert_eq!(std::fs::read(dir.join("model.safetensors")).unwrap(), big());
}

#[test]
fn an_error_page_is_never_taken_for_a_file() {
    let world = World::new(small_model());
    world
        .server
        .fault("model.safetensors", Fault::Status(418, vec![], "<html>model.safetensors</html>"));
    assert!(matches!(fails(world.hub().model("o/n", None)), HubError::Answer { .. }));
    assert!(!world.cache().join("models--o--n/blobs").join(sha256(&big())).exists());
}

#[test]
fn refusals_have_names_of_their_own() {
    let code = |code: &str| vec![("X-Error-Code", code.to_string())];
    let says = |text: &str| vec![("X-Error-Message", text.to_string())];
    let at = "/revision/main";
    type Is = fn(&HubError) -> bool;
    let cases: [(&str, Fault, Is); 12] = [
        (at, Fault::Status(404, code("RepoNotFound"), ""), |e| {
            matches!(e, HubError::RepoNotFound { .. })
        }),
        (at, Fault::Status(401, says("Invalid username or password."), ""), |e| {
            matches!(e, HubError::RepoNotFound { .. })
        }),
        (at, Fault::Status(401, says("Invalid credentials in Authorization header"), ""), |e| {
            matches!(e, HubError::Unauthorized { .. })
        }),
        (at, Fault::Status(401, says(&format!("bad token {CANARY}")), ""), |e| {
            matches!(e, HubError::Unauthorized { .. })
        }),
        (at, Fault::Status(404, code("RevisionNotFound"), ""), |e| {
            matches!(e, HubError::RevisionNotFound { .. })
        }),
        (at, Fault::Status(429, vec![], ""), |e| matches!(e, HubError::Answer { .. })),
        (at, Fault::Status(503, vec![], "down"), HubError::is_unreachable),
        (at, Fault::Status(200, vec![], "<html>please log in</html>"), |e| {
            matches!(e, HubError::Answer { .. })
        }),
        ("/config.json", Fault::Status(401, code("GatedRepo"), ""), |e| {
            matches!(e, HubError::Gated { .. })
        }),
        ("/config.json", Fault::Status(403, code("GatedRepo"), ""), |e| {
            matches!(e, HubError::Gated { token_sent: true, .. })
        }),
        ("/config.json", Fault::Status(404, code("EntryNotFound"), ""), |e| {
            matches!(e, HubError::Answer { .. })
        }),
        (COMMIT, Fault::Status(200, vec![], "{}"), |e| matches!(e, HubError::Answer { .. })),
    ];
    for (path, fault, is) in cases {
        let world = World::new(small_model());
        world.server.fault(path, fault.clone());
        let error = fails(world.hub().model("o/n", None));
        assert!(is(&error), "{fault:?} became {error:?}");
    }
    let world = World::new(small_model().file("x", b"x"));
    match fails(World::new(Server::start().file("a.txt", b"a")).hub().model("o/n", None)) {
        HubError::FileNotFound { wanted, near, .. } => {
            assert_eq!((wanted.as_str(), near), ("config.json", vec!["a.txt".to_string()]))
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(fails(world.offline().model("o/n", None)), HubError::Offline { .. }));
    assert!(world.server.asked().is_empty());
}

#[test]
fn hostile_names_write_nothing() {
    let names = [
        "../../evil",
        "/tmp/evil",
        "a/../../evil",
        "a\\\\..\\\\evil",
        "evil\\u0000",
        "C:/evil",
        "",
    ];
    let hostile_hash =
        entry("config.json", b"{}", false).replace(&git_sha1(b"{}"), "../../../../evil");
    let listings = names
        .iter()
        .map(|name| format!("[{}]", entry(name, b"{}", false)))
        .chain([format!("[{hostile_hash}]")]);
    for listing in listings {
        let world = World::new(small_model());
        world.server.listing(&listing);
        assert!(
            matches!(fails(world.hub().model("o/n", None)), HubError::InvalidName { .. }),
            "{listing}"
        );
        assert!(!world.cache().exists(), "{listing} wrote something");
    }
    let world = World::new(small_model());
    world.server.commit("../../../../evil");
    assert!(matches!(fails(world.hub().model("o/n", None)), HubError::InvalidName { .. }));
    for name in ["../x", "o/../../x", "/etc/passwd", "o\\n", "o/n\0", &"x".repeat(5000)] {
        assert!(
            matches!(fails(world.hub().model(name, None)), HubError::InvalidName { .. }),
            "{name:?}"
        );
        assert!(
            matches!(fails(world.hub().model("o/n", Some(name))), HubError::InvalidName { .. }),
            "{name:?}"
        );
    }
    assert!(!world.cache().exists());
}

#[test]
fn a_full_or_read_only_disk_is_named() {
    let world = World::new(small_model());
    std::fs::write(world.cache(), "a file where the folder should be").unwrap();
    match fails(world.hub().model("o/n", None)) {
        HubError::Disk { path, .. } => assert!(path.starts_with(world.cache())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_at_once_download_once() {
    let world = World::new(small_model());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| world.hub().model("o/n", None).unwrap());
        }
    });
    let bodies = world
        .server
        .asked()
        .iter()
        .filter(|a| a.method == "GET" && a.path.ends_with("model.safetensors"))
        .count();
    assert_eq!(bodies, 1);
}

/// A port whose queue of connections is full: further ones get no answer at all, as behind a firewall that drops.
/// The queue stays full while the returned sockets live.
fn blackhole() -> (String, impl Sized) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let listener = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.listen(1).unwrap()
    });
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300))
    {
        queue.push(stream);
        assert!(queue.len() < 100, "the queue does not fill");
    }
    (format!("http://{address}"), (queue, listener, runtime))
}

#[test]
fn without_a_hub_five_seconds_are_enough() {
    let home = tempfile::tempdir().unwrap();
    let silent = Server::start();
    silent.fault("/revision/main", Fault::Silence);
    let (blackhole, _queue) = blackhole();
    let no_tls = silent.url().replace("http:", "https:");
    // Refused; swallowed; a name that cannot exist (RFC 6761); connected but silent; a server without TLS.
    let dead = ["http://127.0.0.1:1", &blackhole, "http://hub.invalid", &silent.url(), &no_tls];
    std::thread::scope(|scope| {
        for endpoint in dead {
            let config =
                HubConfig { silence: Duration::from_secs(60), ..config(endpoint, home.path()) };
            scope.spawn(move || {
                let (start, hub) = (Instant::now(), Hub::new(config).unwrap());
                let error = fails(hub.model("o/n", None));
                drop(hub);
                let took = start.elapsed();
                assert!(error.is_unreachable() && error.to_string().contains(endpoint), "{error}");
                assert!(took < Duration::from_millis(5900), "{endpoint} took {took:?}: {error}");
            });
        }
    });
}

#[test]
fn what_the_cache_holds_is_used_when_the_hub_is_gone() {
    let world = World::new(small_model());
    let dir = world.hub().model("o/n", None).unwrap();
    world.server.fault("/revision/main", Fault::Status(503, vec![], ""));
    assert_eq!(world.hub().model("o/n", None).unwrap(), dir);
    std::fs::remove_file(dir.join("config.json")).unwrap();
    assert!(
        fails(world.hub().model("o/n", None)).is_unreachable(),
        "half a model does not stand in"
    );
}
