//! Facts about the machine and this process, read from `/proc`: what a report's reader needs to compare numbers.

use std::fs::read_to_string;

/// The machine a run happened on. A fact that cannot be read is absent, not guessed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Its name in the network.
    pub hostname: String,
    /// The distribution: `Debian GNU/Linux 12 (bookworm)`.
    pub os: Option<String>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The processor's model name.
    pub cpu: Option<String>,
    /// Physical cores of the whole machine.
    pub n_cores: Option<usize>,
    /// Threads that this process may run at once: affinity and cgroup quota counted in.
    pub n_threads: usize,
    /// Main memory in bytes, or the cgroup's limit where that is smaller.
    pub memory: Option<u64>,
}

impl Machine {
    /// Reads the facts.
    pub fn read() -> Self {
        let file = |path: &str| read_to_string(path).ok();
        let cpuinfo = file("/proc/cpuinfo").unwrap_or_default();
        let meminfo = file("/proc/meminfo").and_then(|t| kib(&t, "MemTotal"));
        let limit = file("/sys/fs/cgroup/memory.max")
            .or_else(|| file("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
            .and_then(|t| t.trim().parse::<u64>().ok()); // "max" where there is none
        Self {
            hostname: file("/proc/sys/kernel/hostname")
                .map(|t| t.trim().to_owned())
                .filter(|t| !t.is_empty())
                .unwrap_or_else(|| "localhost".to_owned()),
            os: file("/etc/os-release")
                .or_else(|| file("/usr/lib/os-release"))
                .and_then(|t| pretty_name(&t)),
            kernel: file("/proc/sys/kernel/osrelease").map(|t| t.trim().to_owned()),
            cpu: cpu_model(&cpuinfo),
            n_cores: n_cores(&cpuinfo),
            n_threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory: meminfo.map(|m| limit.map_or(m, |l| m.min(l))).or(limit),
        }
    }
}

/// Memory this process has resident now, in bytes.
pub fn rss() -> Option<u64> {
    read_to_string("/proc/self/status").ok().and_then(|t| kib(&t, "VmRSS"))
}

/// The most memory this process ever had resident, in bytes.
pub fn peak_rss() -> Option<u64> {
    read_to_string("/proc/self/status").ok().and_then(|t| kib(&t, "VmHWM"))
}

/// `MemTotal:  16384 kB` → bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    let n: u64 = line.split_whitespace().next()?.parse().ok()?;
    n.checked_mul(1024)
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// `/proc/cpuinfo` as blocks of one logical processor each: the values of `key`.
fn values<'a>(block: &'a str, key: &str) -> Option<&'a str> {
    block.lines().find_map(|l| {
        let (k, v) = l.split_once(':')?;
        (k.trim() == key).then(|| v.trim())
    })
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let name = values(cpuinfo, "model name").or_else(|| values(cpuinfo, "Model"))?;
    Some(name.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Distinct (package, core) pairs; None where the kernel does not say (ARM).
fn n_cores(cpuinfo: &str) -> Option<usize> {
    let pairs: std::collections::BTreeSet<(&str, &str)> = cpuinfo
        .split("\n\n")
        .filter_map(|b| Some((values(b, "physical id")?, values(b, "core id")?)))
        .collect();
    (!pairs.is_empty()).then_some(pairs.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: Some  CPU @ 3.00GHz\nphysical id\t: 0\ncore id\t\t: 0\n\n\
        processor\t: 1\nmodel name\t: Some  CPU @ 3.00GHz\nphysical id\t: 0\ncore id\t\t: 0\n\n\
        processor\t: 2\nmodel name\t: Some  CPU @ 3.00GHz\nphysical id\t: 0\ncore id\t\t: 1\n\n\
        processor\t: 3\nmodel name\t: Some  CPU @ 3.00GHz\nphysical id\t: 1\ncore id\t\t: 1\n";

    #[test]
    fn facts_from_text() {
        assert_eq!(cpu_model(CPUINFO).as_deref(), Some("Some CPU @ 3.00GHz"));
        assert_eq!(n_cores(CPUINFO), Some(3), "two threads of one core count once");
        assert_eq!(n_cores("processor: 0\n"), None);
        assert_eq!(kib("VmHWM:\t  200 kB\nVmRSS:\t     100 kB\n", "VmRSS"), Some(102_400));
        assert_eq!(kib("VmRSSX: 100 kB\n", "VmRSS"), None);
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"X Linux 1\"\n").as_deref(), Some("X Linux 1"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_and_process() {
        let machine = Machine::read();
        assert!(!machine.hostname.is_empty() && machine.n_threads > 0);
        assert!(machine.memory.is_some_and(|m| m > 16 << 20));
        let before = rss().expect("a process has a resident set");
        let block = vec![1u8; 64 << 20];
        let after = rss().expect("a process has a resident set");
        assert!(after > before + (48 << 20), "64 MiB touched: {before} → {after}");
        drop(block);
        // The kernel counts per CPU and sums up late: the two figures may differ by a little.
        assert!(peak_rss().is_some_and(|p| p + (8 << 20) > after), "the peak stays");
    }
}
