//! The Hub over the network: which commit a name is, what it holds, and the bytes of its files.
//!
//! # Why
//! Commits and file bodies come through hf-hub, on an HTTP client that is built here, because its own has no
//! time limits. hf-hub's path from the network straight into the cache is not used: it joins the server's ETag
//! and commit headers to the cache folder unchecked, keeps the body of an error answer as if it were the file,
//! and cannot continue a broken download. Here the bytes are streamed, and `crate::fetch` puts them in place.
//!
//! Time limits: the first answer within `answer_within` (5 s), inside it one connection within 3 s and up to two
//! repetitions, so that a caller with something local to fall back to knows in five seconds whatever the network
//! does. After that first answer there is no total limit, only `silence` (10 s) without a byte.

use std::error::Error;
use std::time::Duration;

use hf_hub::repository::download::HFByteStream;
use hf_hub::{HFClient, HFError, RepoTypeAny};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LINK};
use reqwest::{Response, Url};

use crate::config::{HubConfig, Token};
use crate::listing::TreeEntry;
use crate::names::{Commit, FileName, Kind, Repo, Revision};
use crate::{HubError, listing};

/// A connection, TLS included, comes within this time or is tried again.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Repetitions of a request that met a refused connection, a time limit, or a 5xx.
const REPETITIONS: usize = 2;
/// Most pages of a listing (1000 files each), and most bytes of one page.
const MAX_PAGES: usize = 2000;
const MAX_PAGE_BYTES: usize = 64 << 20;

/// The Hub at one endpoint.
pub(crate) struct Remote {
    http: reqwest::Client,
    hub: HFClient,
    endpoint: String,
    origin: Url,
    token: Option<Token>,
    answer_within: Duration,
}

/// Why a stream of bytes did not start or did not go on.
pub(crate) enum Broken {
    /// Trying again cannot help.
    For(HubError),
    /// Trying again may help.
    Now(String),
}

/// What a server said when it did not say yes.
struct Refusal {
    status: u16,
    code: String,
    message: String,
    at_home: bool,
}

impl Remote {
    /// Builds the client; no connection is made yet.
    pub(crate) fn new(config: &HubConfig) -> Result<Remote, HubError> {
        let origin = Url::parse(&config.endpoint).map_err(|error| setting(&error))?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tunesmith/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_WITHIN.min(config.answer_within))
            .read_timeout(config.silence)
            .referer(false) // a referer would tell a CDN the name of a private repository
            .https_only(origin.scheme() == "https"); // no redirect from https down to http
        if is_loopback(&origin) {
            builder = builder.no_proxy(); // no proxy can reach this machine's own loopback
        }
        let http = builder.build().map_err(|error| setting(&error))?;
        // Left to itself hf-hub reads HF_TOKEN again. A line feed fits no header, so this stands for "no token".
        let token = config.token.as_ref().map_or("\n", Token::reveal);
        let hub = HFClient::builder()
            .client(http.clone())
            .endpoint(&config.endpoint)
            .token(token)
            .cache_dir(&config.cache)
            .cache_enabled(false)
            .retry_max_attempts(REPETITIONS)
            .build()
            .map_err(|error| setting(&error))?;
        let (endpoint, token) = (config.endpoint.clone(), config.token.clone());
        Ok(Remote { http, hub, endpoint, origin, token, answer_within: config.answer_within })
    }

    /// The commit that `revision` is now. This is the first contact, so it alone has a total time limit.
    pub(crate) async fn resolve(
        &self,
        repo: &Repo,
        revision: &Revision,
    ) -> Result<Commit, HubError> {
        let (owner, name) = hf_hub::split_id(repo.id());
        let (rev, only) = (revision.as_str(), vec!["sha".to_string()]);
        let ask = async {
            match repo.kind() {
                Kind::Model => Ok(self
                    .hub
                    .model(owner, name)
                    .info()
                    .revision(rev)
                    .expand(only)
                    .send()
                    .await?
                    .sha),
                Kind::Dataset => Ok(self
                    .hub
                    .dataset(owner, name)
                    .info()
                    .revision(rev)
                    .expand(only)
                    .send()
                    .await?
                    .sha),
            }
        };
        match tokio::time::timeout(self.answer_within, ask).await {
            Err(_) => Err(self.unreachable(format!(
                "no answer within {:.1} s",
                self.answer_within.as_secs_f64()
            ))),
            Ok(Ok(Some(sha))) => Commit::parse(&sha),
            Ok(Ok(None)) => Err(self.answer(repo, "no commit for the revision")),
            Ok(Err(error)) => Err(match self.broken(repo, revision, error) {
                Broken::For(error) => error,
                Broken::Now(reason) => self.unreachable(reason),
            }),
        }
    }

    /// What `commit` holds, as the Hub wrote it; every name in it has passed `listing::check`.
    pub(crate) async fn list(
        &self,
        repo: &Repo,
        commit: &Commit,
    ) -> Result<Vec<TreeEntry>, HubError> {
        let first = format!(
            "{}/api/{}/{}/tree/{}?recursive=true",
            self.endpoint,
            repo.kind().plural(),
            repo.id(),
            commit.as_str()
        );
        let mut next = Some(Url::parse(&first).map_err(|error| setting(&error))?);
        let mut tree: Vec<TreeEntry> = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { break };
            let mut response = self.get(repo, commit, &url).await?;
            next = next_page(response.headers());
            if next.as_ref().is_some_and(|next| next.origin() != self.origin.origin()) {
                return Err(self.answer(repo, "a listing that goes on at another server"));
            }
            let mut page = Vec::new();
            while let Some(chunk) =
                response.chunk().await.map_err(|error| self.unreachable(innermost(&error)))?
            {
                page.extend_from_slice(&chunk);
                if page.len() > MAX_PAGE_BYTES {
                    return Err(self.answer(repo, "a listing that does not end"));
                }
            }
            let page: Vec<TreeEntry> = serde_json::from_slice(&page).map_err(|error| {
                self.answer(repo, &format!("something that is no listing ({error})"))
            })?;
            tree.extend(page);
        }
        listing::check(&tree)?;
        Ok(tree)
    }

    /// The bytes of a file from `from` on. A server that ignores the range sends all of it, which the caller notices.
    pub(crate) async fn open(
        &self,
        repo: &Repo,
        commit: &Commit,
        file: &FileName,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<HFByteStream, Broken> {
        let (owner, name) = hf_hub::split_id(repo.id());
        let kind = match repo.kind() {
            Kind::Model => RepoTypeAny::Model,
            Kind::Dataset => RepoTypeAny::Dataset,
        };
        let repository = self.hub.repository(kind, owner, name);
        let download =
            repository.download_file_stream().filename(file.as_str()).revision(commit.as_str());
        match download.maybe_range(range).send().await {
            Ok((_, stream)) => Ok(stream),
            Err(error) => Err(self.broken(repo, &Revision::Commit(commit.clone()), error)),
        }
    }

    /// A request of our own; the token goes to the endpoint only, and redirects elsewhere lose it.
    async fn get(&self, repo: &Repo, commit: &Commit, url: &Url) -> Result<Response, HubError> {
        let mut repeated = 0;
        loop {
            let mut request = self.http.get(url.clone());
            if let Some(token) = &self.token
                && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
            {
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            let reason = match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if !response.status().is_server_error() => {
                    let refusal = self.refusal_of(response).await;
                    return Err(self.refused(repo, &Revision::Commit(commit.clone()), refusal));
                }
                Ok(response) => format!("it answers {}", response.status()),
                Err(error) => innermost(&error),
            };
            if repeated == REPETITIONS {
                return Err(self.unreachable(reason));
            }
            tokio::time::sleep(Duration::from_millis(200 << repeated)).await;
            repeated += 1;
        }
    }

    async fn refusal_of(&self, response: Response) -> Refusal {
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_string()
        };
        Refusal {
            status: response.status().as_u16(),
            code: header("x-error-code"),
            message: self.quote(&header("x-error-message")),
            at_home: response.url().origin() == self.origin.origin(),
        }
    }

    /// Sorts hf-hub's errors into what can be tried again and what cannot.
    fn broken(&self, repo: &Repo, revision: &Revision, error: HFError) -> Broken {
        let context = match &error {
            HFError::Request { source, .. } if source.is_decode() => {
                return Broken::For(self.answer(repo, "something that is not JSON"));
            }
            HFError::Request { source, .. } if source.is_redirect() => {
                return Broken::For(self.answer(repo, "a redirect that is not followed"));
            }
            HFError::Request { source, .. } => return Broken::Now(self.quote(&innermost(source))),
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RateLimited { context, .. }
            | HFError::RepoNotFound { context: Some(context), .. }
            | HFError::RevisionNotFound { context: Some(context), .. }
            | HFError::EntryNotFound { context: Some(context), .. } => context,
            other => return Broken::For(self.answer(repo, &innermost(other))),
        };
        let refusal = Refusal {
            status: context.status.as_u16(),
            code: context.error_code.clone().unwrap_or_default(),
            message: self.quote(context.server_message.as_deref().unwrap_or_default()),
            at_home: Url::parse(&context.url).is_ok_and(|url| url.origin() == self.origin.origin()),
        };
        match refusal.status {
            500..=599 => Broken::Now(format!("it answers {} {}", refusal.status, refusal.message)),
            _ => Broken::For(self.refused(repo, revision, refusal)),
        }
    }

    /// One variant per way out. The Hub hides private repositories behind 401, as if a password were wrong.
    fn refused(&self, repo: &Repo, revision: &Revision, refusal: Refusal) -> HubError {
        let Refusal { status, code, message, at_home } = refusal;
        let (id, token_sent) = (repo.id().to_string(), self.token.is_some());
        let page = match repo.kind() {
            Kind::Model => format!("{}/{id}", self.endpoint),
            Kind::Dataset => format!("{}/datasets/{id}", self.endpoint),
        };
        let other = if repo.kind() == Kind::Model { "data sets" } else { "models" };
        let no_repo = || HubError::RepoNotFound {
            kind: repo.kind().noun(),
            repo: id.clone(),
            endpoint: self.endpoint.clone(),
            token_sent,
            help: format!(
                "check the spelling ({other} have names of their own); for a private one set HF_TOKEN"
            ),
        };
        let no_revision = || HubError::RevisionNotFound {
            repo: id.clone(),
            revision: revision.as_str().into(),
            page: format!("{page}/commits/main"),
        };
        match (status, code.as_str()) {
            _ if !at_home => {
                self.answer(repo, &format!("{status} {message} (from the server it redirects to)"))
            }
            (_, "GatedRepo") => HubError::Gated { repo: id, page, message, token_sent },
            (_, "RepoNotFound") => no_repo(),
            (_, "RevisionNotFound") => no_revision(),
            (_, "EntryNotFound") => self.answer(repo, "404 for a file that its own listing names"),
            (401, _) if !token_sent || message == "Invalid username or password." => no_repo(),
            (401, _) => HubError::Unauthorized { repo: id, message },
            (403, _) if token_sent => HubError::Unauthorized { repo: id, message },
            (404, _) if revision.as_str() == "main" => no_repo(),
            (404, _) => no_revision(),
            _ => self.answer(repo, format!("{status} {message}").trim()),
        }
    }

    /// Text from elsewhere made fit for a message: one line, no control characters, at most 300 characters,
    /// and without the token, should a server be so unkind as to repeat it.
    pub(crate) fn quote(&self, text: &str) -> String {
        let text = match &self.token {
            Some(token) => text.replace(token.reveal(), "…"),
            None => text.to_string(),
        };
        let line: String =
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        line.trim().to_string()
    }

    fn unreachable(&self, reason: String) -> HubError {
        HubError::Unreachable { endpoint: self.endpoint.clone(), reason: self.quote(&reason) }
    }

    fn answer(&self, repo: &Repo, answer: &str) -> HubError {
        HubError::Answer {
            endpoint: self.endpoint.clone(),
            repo: repo.id().to_string(),
            answer: self.quote(answer),
        }
    }
}

/// The last link of a chain of causes: what the system said, without addresses and their signatures.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    match error.downcast_ref::<reqwest::Error>() {
        Some(bare) if bare.is_timeout() => "timed out".to_string(),
        Some(_) => "the request failed".to_string(), // its text holds the whole address
        None => error.to_string(),
    }
}

/// The address in `Link: <…>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<Url> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    Url::parse(next.split_once('<')?.1.split_once('>')?.0).ok()
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let bare = host.trim_matches(['[', ']']);
        bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

fn setting(error: &(dyn Error + 'static)) -> HubError {
    HubError::Setting {
        name: "HF_ENDPOINT",
        reason: innermost(error),
        help: "write an address such as https://huggingface.co",
    }
}
