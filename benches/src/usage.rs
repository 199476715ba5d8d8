//! What processes use of the machine, as the kernel counts it.

use std::fmt;
use std::time::{Duration, Instant};

use posthorn_chaos::cluster::Cluster;

/// The kernel shows times in this unit to every process, whatever its own.
const TICK: Duration = Duration::from_millis(10);
/// Of the CPU: with less to spare, it is what limits.
const IDLE_SHARE_MIN: f64 = 0.1;

/// Who used how much CPU while something was measured.
pub struct Meter {
    started: Instant,
    processes: Vec<(String, u32)>,
    before: Vec<Duration>,
    machine_before: Duration,
}

/// In cores.
pub struct Usage {
    processes: Vec<(String, f64)>,
    others: f64,
    cores: f64,
}

impl Meter {
    /// Begins to watch the nodes of a cluster and this process.
    pub fn start(cluster: &Cluster) -> Meter {
        let node = |index| (format!("node {index}"), process(cluster, index));
        let mut processes: Vec<_> = (0..cluster.len()).map(node).collect();
        processes.push(("generator".to_owned(), std::process::id()));
        let before = processes.iter().map(|(_, id)| cpu_time(*id)).collect();
        Meter { started: Instant::now(), processes, before, machine_before: machine_time() }
    }

    pub fn stop(self) -> Usage {
        let Meter { started, processes, before, machine_before } = self;
        let elapsed = started.elapsed().as_secs_f64();
        let share = |time: Duration| time.as_secs_f64() / elapsed;
        let machine = share(machine_time().saturating_sub(machine_before));
        let used = |((name, id), before): ((String, u32), Duration)| {
            (name, share(cpu_time(id).saturating_sub(before)))
        };
        let processes: Vec<_> = processes.into_iter().zip(before).map(used).collect();
        let ours: f64 = processes.iter().map(|(_, share)| share).sum();
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        Usage { processes, others: (machine - ours).max(0.0), cores }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage { processes, others, cores } = self;
        let used = others + processes.iter().map(|(_, share)| share).sum::<f64>();
        match used > cores * (1.0 - IDLE_SHARE_MIN) {
            true => write!(f, "CPU")?,
            false => write!(f, "waiting, not CPU")?,
        }
        write!(f, " ({used:.1} of {cores} cores:")?;
        for (name, share) in processes {
            write!(f, " {name} {share:.2},")?;
        }
        write!(f, " others {others:.2})")
    }
}

/// The process of a node.
fn process(cluster: &Cluster, node: usize) -> u32 {
    cluster.node(node).pid().as_raw().unsigned_abs()
}

fn cpu_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    parse_cpu(&stat).unwrap_or_default()
}

fn machine_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    parse_machine(&stat).unwrap_or_default()
}

/// `utime` and `stime` of `/proc/PID/stat`.
fn parse_cpu(stat: &str) -> Option<Duration> {
    // The process's name is in parentheses and may have any characters.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map_while(|field| field.parse::<u32>().ok());
    Some(TICK * (times.next()? + times.next()?))
}

/// All that is neither `idle` nor `iowait` of the first line of `/proc/stat`.
fn parse_machine(stat: &str) -> Option<Duration> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    // What guests use is in `user` and `nice` already.
    let busy = fields.take(8).enumerate().filter(|(place, _)| !matches!(place, 3 | 4));
    let ticks: u64 = busy.filter_map(|(_, field)| field.parse::<u64>().ok()).sum();
    Some(TICK * u32::try_from(ticks).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4 900 0 0 0 150 50 0 0 20 0 4 0 9 1 2";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(2)));
        let stat = "cpu  100 10 40 9000 500 0 50 0 100 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_machine(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_limits_is_said_with_who_used_it() {
        let usage = |node| Usage {
            processes: vec![("node 0".to_owned(), node), ("generator".to_owned(), 0.5)],
            others: 0.1,
            cores: 2.0,
        };
        let busy = "CPU (1.9 of 2 cores: node 0 1.30, generator 0.50, others 0.10)";
        assert_eq!(usage(1.3).to_string(), busy);
        let waiting = "waiting, not CPU (0.8 of 2 cores: node 0 0.20, generator 0.50, others 0.10)";
        assert_eq!(usage(0.2).to_string(), waiting);
    }
}
