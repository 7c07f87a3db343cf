//! The front door: a name in, files on disk out.

use std::path::PathBuf;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::runtime::{Builder, Runtime};

use crate::config::HubConfig;
use crate::fetch::Fetch;
use crate::layout::RepoCache;
use crate::listing::{self, Entry};
use crate::names::{Commit, FileName, Kind, Repo, Revision};
use crate::progress::Bars;
use crate::remote::Remote;
use crate::select::{self, Patterns, Weights};
use crate::{HubError, select::nearest};

/// Files of one repository that are fetched at the same time.
const AT_ONCE: usize = 4;

/// Models and data sets of the Hugging Face Hub, by name.
///
/// Blocking; safe to use from several threads and processes at once, also from inside an async runtime.
pub struct Hub {
    config: HubConfig,
    bars: Bars,
    /// None when offline: then there is nothing that could open a connection.
    net: Option<Net>,
}

struct Net {
    remote: Remote,
    runtime: Option<Runtime>,
}

/// What is wanted of a repository.
enum Want {
    Model,
    Files(Patterns),
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Hub {
    /// The Hub as the environment describes it; see [`HubConfig`].
    ///
    /// # Errors
    /// [`HubError::Setting`] for a variable that cannot be used. No connection is made yet.
    pub fn from_env() -> Result<Hub, HubError> {
        Hub::new(HubConfig::from_env()?)
    }

    /// The Hub as `config` describes it.
    ///
    /// # Errors
    /// [`HubError::Setting`] for a setting that cannot be used. No connection is made yet.
    pub fn new(config: HubConfig) -> Result<Hub, HubError> {
        let net = match config.offline {
            true => None,
            false => {
                let runtime = Builder::new_current_thread().enable_all().build();
                let runtime =
                    runtime.map_err(HubError::disk("start the network from", &config.cache))?;
                Some(Net { remote: Remote::new(&config)?, runtime: Some(runtime) })
            }
        };
        Ok(Hub { config, bars: Bars::default(), net })
    }

    /// A folder that holds a model: configuration, tokenizer, chat template, and weights as `*.safetensors`.
    /// `revision` is a branch, a tag or a commit; without one it is `main`.
    ///
    /// # Errors
    /// Any [`HubError`]; [`HubError::is_unreachable`] tells whether the Hub could be asked at all.
    pub fn model(&self, repo: &str, revision: Option<&str>) -> Result<PathBuf, HubError> {
        let repo = Repo::parse(Kind::Model, repo)?;
        let (cache, commit, _) = self.files(&repo, revision, &Want::Model)?;
        Ok(cache.snapshot(&commit))
    }

    /// The files of a data set whose names match one of `patterns` (`*` and `?` within a folder, `**` across
    /// folders), sorted by name. Every pattern has to match something.
    ///
    /// # Errors
    /// Any [`HubError`]; [`HubError::FileNotFound`] lists what is there.
    pub fn dataset(
        &self,
        repo: &str,
        revision: Option<&str>,
        patterns: &[String],
    ) -> Result<Vec<PathBuf>, HubError> {
        let repo = Repo::parse(Kind::Dataset, repo)?;
        let want = Want::Files(Patterns::parse(patterns)?);
        let (cache, commit, names) = self.files(&repo, revision, &want)?;
        Ok(names.iter().map(|name| cache.pointer(&commit, name)).collect())
    }

    /// From the cache where that is certain to be right, from the Hub otherwise, and from the cache again where
    /// the Hub cannot be reached.
    fn files(
        &self,
        repo: &Repo,
        revision: Option<&str>,
        want: &Want,
    ) -> Result<(RepoCache, Commit, Vec<FileName>), HubError> {
        let revision = Revision::parse(revision.unwrap_or("main"))?;
        let cache = RepoCache::new(&self.config.cache, repo);
        let at = At { repo, revision: &revision, cache: &cache };

        let Some(net) = &self.net else {
            let missing = match at.in_cache(want, true)? {
                Ok((commit, names)) => return Ok((cache, commit, names)),
                Err(missing) => missing,
            };
            let (repo, revision) = (repo.id().to_string(), revision.as_str().to_string());
            return Err(HubError::Offline {
                repo,
                revision,
                missing,
                cache: self.config.cache.clone(),
            });
        };
        if matches!(revision, Revision::Commit(_))
            && let Ok((commit, names)) = at.in_cache(want, false)?
        {
            return Ok((cache, commit, names));
        }
        match net.block_on(at.ask_hub(net, &self.bars, want)) {
            Ok((commit, names)) => Ok((cache, commit, names)),
            Err(error @ HubError::Unreachable { .. }) => match at.in_cache(want, true)? {
                Ok((commit, names)) => {
                    tracing::warn!(
                        repo = repo.id(),
                        commit = commit.as_str(),
                        "{error}; going on with what the cache holds"
                    );
                    Ok((cache, commit, names))
                }
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}

/// One repository at one revision, and its part of the cache.
struct At<'a> {
    repo: &'a Repo,
    revision: &'a Revision,
    cache: &'a RepoCache,
}

impl At<'_> {
    /// Answers from the disk alone, or says what is missing there. With a kept listing the answer is exact.
    /// Without one (another tool filled the cache) a model is judged by its index; a data set's completeness
    /// cannot be judged, so its files are taken as they are only when there is nobody to ask (`trusting`).
    fn in_cache(
        &self,
        want: &Want,
        trusting: bool,
    ) -> Result<Result<(Commit, Vec<FileName>), String>, HubError> {
        let Some(commit) = self.cache.commit_of(self.revision) else {
            return Ok(Err("the revision was never downloaded".to_string()));
        };
        let on_disk = self.cache.names_on_disk(&commit);
        let kept = self.cache.listing(&commit);
        let names = match &kept {
            Some(entries) => entries.iter().map(|entry| entry.name.clone()).collect(),
            None => on_disk.clone(),
        };
        let wanted = match want {
            Want::Files(_) if kept.is_none() && !trusting => {
                return Ok(Err("its listing".to_string()));
            }
            Want::Files(patterns) => match patterns.pick(&names) {
                Ok(wanted) => wanted,
                Err(_) if kept.is_none() => {
                    return Ok(Err("files that match the patterns".to_string()));
                }
                Err(idle) => return Err(self.no_file(&commit, &names, &idle)),
            },
            Want::Model => {
                let mut wanted = select::beside_weights(&names);
                match select::weights(&names) {
                    Weights::Files(files) => wanted.extend(files),
                    Weights::Index(index) if on_disk.contains(&index) => {
                        match self.shards(&commit, &names, &index) {
                            Ok(files) => wanted.extend(files.into_iter().chain([index])),
                            Err(HubError::FileNotFound { wanted, .. }) if kept.is_none() => {
                                return Ok(Err(wanted));
                            }
                            Err(error) => return Err(error),
                        }
                    }
                    Weights::Index(index) => return Ok(Err(index.to_string())),
                    // What is on disk may be only a part, but a kept listing is all there is.
                    _ if kept.is_none() => return Ok(Err("its weights".to_string())),
                    other => return Err(self.no_weights(&commit, &names, &other)),
                }
                let tokenizer = names.iter().any(|name| name.as_str() == "tokenizer.json");
                if kept.is_none() && !(tokenizer && has_config(&wanted)) && !trusting {
                    return Ok(Err("its configuration and tokenizer".to_string()));
                }
                if !has_config(&wanted) {
                    return Ok(Err("config.json".to_string()));
                }
                wanted
            }
        };
        let there = |name: &FileName| match &kept {
            Some(entries) => {
                find(entries, name).is_some_and(|entry| self.cache.holds(&commit, entry))
            }
            None => on_disk.contains(name),
        };
        match wanted.iter().find(|name| !there(name)) {
            Some(missing) => Ok(Err(missing.to_string())),
            None => Ok(Ok((commit, wanted))),
        }
    }

    /// Asks the Hub what the revision is and holds, and fetches what is wanted and not yet there.
    async fn ask_hub(
        &self,
        net: &Net,
        bars: &Bars,
        want: &Want,
    ) -> Result<(Commit, Vec<FileName>), HubError> {
        let remote = &net.remote;
        let commit = remote.resolve(self.repo, self.revision).await?;
        let entries = match self.cache.listing(&commit) {
            Some(entries) => entries,
            None => {
                let tree = remote.list(self.repo, &commit).await?;
                self.cache.keep_listing(&commit, &tree)?;
                listing::check(&tree)?
            }
        };
        let names: Vec<FileName> = entries.iter().map(|entry| entry.name.clone()).collect();
        let fetch = Fetch { remote, cache: self.cache, repo: self.repo, commit: &commit, bars };
        let wanted = match want {
            Want::Files(patterns) => {
                let wanted =
                    patterns.pick(&names).map_err(|idle| self.no_file(&commit, &names, &idle))?;
                fetch_all(&fetch, &entries, &wanted).await?;
                wanted
            }
            Want::Model => {
                let mut wanted = select::beside_weights(&names);
                if !has_config(&wanted) {
                    return Err(self.no_file(&commit, &names, "config.json"));
                }
                let weights = select::weights(&names);
                match &weights {
                    Weights::Files(_) => {}
                    Weights::Index(index) => wanted.push(index.clone()),
                    none => return Err(self.no_weights(&commit, &names, none)),
                }
                fetch_all(&fetch, &entries, &wanted).await?;
                let heavy = match weights {
                    Weights::Index(index) => self.shards(&commit, &names, &index)?,
                    Weights::Files(files) => files,
                    Weights::Pickles(_) | Weights::Missing => Vec::new(), // left above
                };
                fetch_all(&fetch, &entries, &heavy).await?;
                wanted.extend(heavy);
                wanted
            }
        };
        self.cache.remember(self.revision, &commit)?;
        Ok((commit, wanted))
    }

    /// The files that an index names, all of which have to be in `names`.
    fn shards(
        &self,
        commit: &Commit,
        names: &[FileName],
        index: &FileName,
    ) -> Result<Vec<FileName>, HubError> {
        let path = self.cache.pointer(commit, index);
        let files = select::shards(&std::fs::read(&path).map_err(HubError::disk("read", &path))?)?;
        match files.iter().find(|file| names.binary_search(file).is_err()) {
            Some(lacking) => Err(self.no_file(commit, names, lacking.as_str())),
            None => Ok(files),
        }
    }

    fn no_file(&self, commit: &Commit, names: &[FileName], wanted: &str) -> HubError {
        HubError::FileNotFound {
            repo: self.repo.id().to_string(),
            revision: match self.revision {
                Revision::Name(name) => format!("{name} ({})", &commit.as_str()[..8]),
                Revision::Commit(commit) => commit.as_str().to_string(),
            },
            wanted: wanted.to_string(),
            total: names.len(),
            near: nearest(names, wanted),
        }
    }

    fn no_weights(&self, commit: &Commit, names: &[FileName], weights: &Weights) -> HubError {
        match weights {
            Weights::Pickles(files) => HubError::OnlyPickles {
                repo: self.repo.id().to_string(),
                files: files.iter().take(5).map(FileName::to_string).collect(),
            },
            _ => self.no_file(commit, names, "*.safetensors"),
        }
    }
}

/// Fetches several files at once; the first failure ends the others, which continue at the next call.
async fn fetch_all(
    fetch: &Fetch<'_>,
    entries: &[Entry],
    wanted: &[FileName],
) -> Result<(), HubError> {
    let mut downloads = Vec::new();
    for name in wanted {
        downloads.extend(find(entries, name).map(|entry| fetch.file(entry)));
    }
    stream::iter(downloads).buffer_unordered(AT_ONCE).try_collect().await
}

fn find<'a>(entries: &'a [Entry], name: &FileName) -> Option<&'a Entry> {
    entries.binary_search_by(|entry| entry.name.cmp(name)).ok().map(|at| &entries[at])
}

fn has_config(names: &[FileName]) -> bool {
    names.iter().any(|name| matches!(name.as_str(), "config.json" | "adapter_config.json"))
}

impl Net {
    /// On a thread of its own, since a runtime must not be entered from inside another one.
    fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        let Some(runtime) = &self.runtime else { unreachable!("only drop takes the runtime") };
        std::thread::scope(|scope| {
            let running = scope.spawn(|| runtime.block_on(future));
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // an unanswered DNS query would hold an ordinary drop for its whole wait
        }
    }
}
