//! A server that speaks the Hub's protocol on loopback, with faults on demand.
//!
//! One thread per connection, one request per connection. It keeps a log of what it was asked, so that tests can
//! say what must not have been asked (a second download) or sent (the token, to the second server).

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit that `main` is.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

/// How the server treats a file or an address.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Answer with this status, these headers, this body.
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// Send this many bytes of a body, then close; so many times.
    Cut { after: usize, times: usize },
    /// Send this many bytes of a body, then nothing for a while, then close; once.
    Stall { after: usize },
    /// Ignore `Range`, after one cut.
    NoRanges { after: usize },
    /// Send other bytes of the same length.
    Garble,
    /// Accept the connection and say nothing.
    Silence,
    /// Redirect to this address.
    Redirect(String),
}

#[derive(Default)]
struct State {
    files: Vec<(String, Vec<u8>, bool)>,
    listing: Option<String>,
    sha: String,
    faults: HashMap<String, Fault>,
    next_page: Option<String>,
    log: Vec<Asked>,
}

/// A running server; it ends with the test process.
#[derive(Clone)]
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    pub(crate) port: u16,
}

impl Server {
    /// Listens on a free port.
    pub(crate) fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Server { state: Arc::default(), port };
        server.state.lock().unwrap().sha = COMMIT.to_string();
        let clone = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = clone.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A file kept by git.
    pub(crate) fn file(self, name: &str, content: &[u8]) -> Server {
        self.state.lock().unwrap().files.push((name.to_string(), content.to_vec(), false));
        self
    }

    /// A file kept in LFS.
    pub(crate) fn large(self, name: &str, content: &[u8]) -> Server {
        self.state.lock().unwrap().files.push((name.to_string(), content.to_vec(), true));
        self
    }

    /// What happens to requests whose path ends in `path`.
    pub(crate) fn fault(&self, path: &str, fault: Fault) {
        self.state.lock().unwrap().faults.insert(path.to_string(), fault);
    }

    /// Removes all faults.
    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// Lists this instead of the files.
    pub(crate) fn listing(&self, json: &str) {
        self.state.lock().unwrap().listing = Some(json.to_string());
    }

    /// The address at which the listing goes on: sent with the first page, which then holds half the files.
    pub(crate) fn next_page(&self, url: &str) {
        self.state.lock().unwrap().next_page = Some(url.to_string());
    }

    /// The commit that `main` is from now on.
    pub(crate) fn commit(&self, sha: &str) {
        self.state.lock().unwrap().sha = sha.to_string();
    }

    /// Everything asked since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace();
        let (method, target) =
            (words.next().unwrap_or("").to_string(), words.next().unwrap_or("").to_string());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((key, value)) = line.split_once(':') {
                headers.insert(key.to_ascii_lowercase(), value.trim().to_string());
            }
        }
        let asked = Asked { method, path: target, headers };
        self.state.lock().unwrap().log.push(asked.clone());
        let _ = self.answer(stream, &asked); // a client that hangs up is no failure of the server
    }

    fn answer(&self, mut out: TcpStream, asked: &Asked) -> std::io::Result<()> {
        let path = asked.path.split('?').next().unwrap_or_default().to_string();
        let head = asked.method == "HEAD";
        let mut state = self.state.lock().unwrap();
        let key = state.faults.keys().find(|key| path.ends_with(key.as_str())).cloned();
        let fault = key.as_ref().and_then(|key| state.faults.get(key)).cloned();
        match &fault {
            Some(Fault::Status(status, headers, body)) => {
                return reply(&mut out, head, *status, headers, body.as_bytes());
            }
            Some(Fault::Redirect(to)) => {
                return reply(&mut out, head, 302, &[("Location", to.clone())], b"");
            }
            Some(Fault::Silence) => {
                drop(state);
                let _ = out.read(&mut [0]); // until the client gives up
                return Ok(());
            }
            _ => {}
        }
        if path.contains("/revision/") {
            let body = format!(r#"{{"id":"o/n","sha":"{}"}}"#, state.sha);
            return reply(&mut out, head, 200, &[], body.as_bytes());
        }
        if path.contains("/tree/") {
            let half = state.files.len() / 2;
            let (files, headers) = match (&state.next_page, asked.path.contains("page=2")) {
                (Some(url), false) => {
                    (&state.files[..half], vec![("Link", format!("<{url}>; rel=\"next\""))])
                }
                (Some(_), true) => (&state.files[half..], vec![]),
                (None, _) => (&state.files[..], vec![]),
            };
            let entries: Vec<String> =
                files.iter().map(|(name, content, lfs)| entry(name, content, *lfs)).collect();
            let body = state.listing.clone().unwrap_or(format!("[{}]", entries.join(",")));
            return reply(&mut out, head, 200, &headers, body.as_bytes());
        }
        let found =
            state.files.iter().find(|(name, ..)| path.ends_with(&format!("/{name}"))).cloned();
        let Some((_, mut content, lfs)) = found else {
            return reply(&mut out, head, 404, &[("X-Error-Code", "EntryNotFound".into())], b"");
        };
        let etag = if lfs { sha256(&content) } else { git_sha1(&content) };
        let mut start = 0;
        if let Some(range) = asked.headers.get("range") {
            start = range.trim_start_matches("bytes=").split('-').next().unwrap().parse().unwrap();
        }
        let mut stop = content.len();
        let mut wait = false;
        if !head {
            match fault {
                Some(Fault::Cut { after, times }) if times > 0 => {
                    stop = (start + after).min(stop);
                    state.faults.insert(key.unwrap(), Fault::Cut { after, times: times - 1 });
                }
                Some(Fault::Stall { after }) => {
                    (stop, wait) = (after, true);
                    state.faults.clear();
                }
                Some(Fault::NoRanges { after }) => {
                    if start == 0 && after > 0 {
                        stop = after;
                        state.faults.insert(key.unwrap(), Fault::NoRanges { after: 0 });
                    }
                    start = 0;
                }
                Some(Fault::Garble) => content.fill(b'#'),
                _ => {}
            }
        }
        drop(state);
        let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
        write!(
            out,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n",
            content.len() - start
        )?;
        if !head {
            out.write_all(&content[start..stop.max(start)])?;
            out.flush()?;
        }
        if wait {
            std::thread::sleep(Duration::from_secs(3));
        }
        Ok(())
    }
}

fn reply(
    out: &mut TcpStream,
    head: bool,
    status: u16,
    headers: &[(&str, String)],
    body: &[u8],
) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
    for (key, value) in headers {
        write!(out, "{key}: {value}\r\n")?;
    }
    out.write_all(b"\r\n")?;
    if head { Ok(()) } else { out.write_all(body) }
}

/// An entry as the Hub's `tree` writes it.
pub(crate) fn entry(name: &str, content: &[u8], lfs: bool) -> String {
    let (oid, size) = (git_sha1(content), content.len());
    match lfs {
        false => format!(r#"{{"type":"file","oid":"{oid}","size":{size},"path":"{name}"}}"#),
        true => format!(
            r#"{{"type":"file","oid":"{oid}","size":{size},"path":"{name}","lfs":{{"oid":"{}","size":{size},"pointerSize":134}},"xetHash":"unused"}}"#,
            sha256(content)
        ),
    }
}

pub(crate) fn git_sha1(content: &[u8]) -> String {
    let mut hasher = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
    hasher.update(content);
    hex(&hasher.finalize())
}

pub(crate) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
