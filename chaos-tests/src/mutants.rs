//! Bugs that somebody might well write, and what would notice: tests of the tests.
//!
//! Each is planted in a copy of the tree by `cargo run -p posthorn-chaos --bin mutants`, and the one
//! test beside it has to fail.

use std::fs;
use std::path::Path;

/// One bug.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    pub name: &'static str,
    /// Below the root of the workspace.
    pub file: &'static str,
    /// Occurs in the file exactly once.
    pub old: &'static str,
    pub new: &'static str,
    pub caught_by: Test,
}

/// What has to fail, the narrowest that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    Simulation,
    /// Tests inside the broker and its core whose names contain this.
    Unit(&'static str),
    /// Tests beside them, most of real nodes: the file, and what their names contain.
    File(&'static str, &'static str),
    /// A row of the `chaos` binary.
    Row(&'static str),
}

pub const ALL: &[Mutant] = &[
    Mutant {
        name: "ack-before-enqueue",
        file: "broker/src/exchange/mailbox.rs",
        old: "                answer(Err(error));\n",
        new: "                drop(error);\n                answer(Ok(()));\n",
        caught_by: Test::File("outcomes", "a_full_outbound_queue_is_told"),
    },
    Mutant {
        name: "skip-lease-check",
        file: "broker/src/consensus/run.rs",
        old: "if ends_at == 0 || micros(boot_now()) >= ends_at {",
        new: "if ends_at == 0 {",
        caught_by: Test::Unit("consensus::run"),
    },
    Mutant {
        name: "outlive-the-lease",
        file: "broker/core/src/tenure.rs",
        old: "State::Serving { run, lease, .. } if lease.ends_at() <= now => self.fence(run),",
        new: "",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "reuse-a-run",
        file: "broker/core/src/tenure.rs",
        old: "on_disk.map_or(1, |last| last + 1)",
        new: "on_disk.map_or(1, |last| last)",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "a-new-leader-takes-silence-for-death",
        file: "broker/core/src/liveness.rs",
        old: "self.heard.get(&run).copied().unwrap_or(now)",
        new: "self.heard.get(&run).copied().unwrap_or(BootTime(Duration::ZERO))",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "evict-without-debts",
        file: "broker/core/src/directory.rs",
        old: "            evicted.evicted_at = Some(self.epoch);\n        }\n",
        new: "            evicted.evicted_at = Some(self.epoch);\n            evicted.connections = 0;\n        \
              }\n        for shard in &mut self.shards {\n            \
              Arc::make_mut(shard).retain(|_, entry| entry.owner != run);\n        }\n",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "drop-update-number-check",
        file: "broker/core/src/directory.rs",
        old: "if number <= known.updates {",
        new: "if number == 0 {",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "an-evicted-run-still-has-a-say",
        file: "broker/core/src/directory.rs",
        old: "Command::Update { run, number, opened, closed } if self.is_current(*run) => {",
        new: "Command::Update { run, number, opened, closed } => {",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "two-disks-push-each-other-out",
        file: "broker/core/src/directory.rs",
        old: "is_some_and(|known| known.disk != disk)",
        new: "is_some_and(|known| known.disk != disk && false)",
        caught_by: Test::File("directory", "who_does_not_hold_the_disk"),
    },
    Mutant {
        name: "leave-without-retiring",
        file: "broker/core/src/connection.rs",
        old: "State::Registering => self.retire(None),",
        new: "State::Registering => self.enter(State::Closed, [Action::Drop]),",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "two-updates-on-their-way",
        file: "broker/core/src/roster.rs",
        old: "if self.in_flight.is_some() || self.waiting.is_empty() {",
        new: "if self.waiting.is_empty() {",
        caught_by: Test::Unit("roster::"),
    },
    Mutant {
        name: "reuse-id",
        file: "broker/src/edge/opening.rs",
        old: "getrandom::fill(&mut bits).ok()?;",
        new: "getrandom::fill(&mut bits[..1]).ok()?;",
        caught_by: Test::Row("kill-owner"),
    },
    Mutant {
        name: "gone-without-barrier",
        file: "broker/src/exchange/outbound.rs",
        old: "(Located::Unknown, _) => return Tried::Unknown(parcel),",
        new: "(Located::Unknown, _) => self.tell_gone(parcel),",
        caught_by: Test::File("outcomes", "an_unknown_outcome_can_be_repeated"),
    },
    Mutant {
        name: "deliver-by-slot",
        file: "broker/src/exchange/mailbox.rs",
        old: "self.shard(id).read().get(&id).cloned()",
        new: "self.shard(id).read().values().next().cloned()",
        caught_by: Test::Row("kill-owner"),
    },
    Mutant {
        name: "unbounded-queue",
        file: "broker/core/src/outbox.rs",
        old: "fits && self.queue.len() < limits.messages_max",
        new: "fits || self.queue.len() < limits.messages_max",
        caught_by: Test::File("outcomes", "a_full_outbound_queue_is_told"),
    },
    Mutant {
        name: "forget-vote-fsync",
        file: "broker/src/consensus/store/writer.rs",
        old: "            | Work::SaveVote(_)\n            | Work::SaveCluster(_)\n            \
              | Work::SaveIncarnation(_)\n            | Work::SaveVersion(_) => true,\n",
        new: "            | Work::SaveCluster(_)\n            | Work::SaveIncarnation(_)\n            \
              | Work::SaveVersion(_) => true,\n            Work::SaveVote(_) => false,\n",
        caught_by: Test::Unit("a_power_cut_costs_nothing"),
    },
    Mutant {
        name: "retry-after-timeout",
        file: "broker/src/fabric/lane/sender.rs",
        old: "{\n            self.told.push_back((teller, Err(PostError::Unknown)));\n        }\n        for Queued",
        new: "{\n            self.told.push_back((teller, Err(PostError::NotSent)));\n        }\n        for Queued",
        caught_by: Test::Unit("fabric::lane"),
    },
    Mutant {
        name: "settle-debt-before-call",
        file: "broker/src/exchange/debts.rs",
        old: "async move { (disconnects.attempt_debt(",
        new: "disconnects.consensus.registrar().close(run, debt.0);\n                \
              async move { (disconnects.attempt_debt(",
        caught_by: Test::Row("debts"),
    },
    Mutant {
        name: "leave-with-debts",
        file: "broker/core/src/drain.rs",
        old: "&& (left.unsettled == 0 || until <= now)",
        new: "&& (left.unsettled == 0 || until <= now || true)",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "a-step-that-costs-the-quorum",
        file: "broker/core/src/membership.rs",
        old: "live * 2 > all\n        };",
        new: "live * 2 >= all\n        };",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "two-votes-for-one-node",
        file: "broker/core/src/membership.rs",
        old: "lost.retain(|(node, _)| !present.iter().any(|(other, _)| other == node));",
        new: "",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "an-even-number-of-voters",
        file: "broker/core/src/membership.rs",
        old: "wanted.truncate(odd(wanted.len()));",
        new: "",
        caught_by: Test::Unit("membership::"),
    },
    Mutant {
        name: "leaders-that-hand-over-to-each-other",
        file: "broker/core/src/membership.rs",
        old: "now < began_at + LEAD_MIN",
        new: "now < began_at",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "never-finish-what-a-dead-leader-began",
        file: "broker/core/src/membership.rs",
        old: "else { return Some(Step::Settle) };",
        new: "else { return None };",
        caught_by: Test::Simulation,
    },
    Mutant {
        name: "acknowledge-whom-one-gives-up",
        file: "broker/core/src/liveness.rs",
        old: "let is_in_time = now < *heard + self.patience;",
        new: "let is_in_time = true;",
        caught_by: Test::Unit("liveness::"),
    },
    Mutant {
        name: "take-a-lost-disk-for-one-that-is-away",
        file: "broker/core/src/group.rs",
        old: "acting != disk && nodes.contains_key(&acting)",
        new: "acting == disk && nodes.contains_key(&acting)",
        caught_by: Test::Simulation,
    },
];

impl Mutant {
    /// The file with the bug in it. The error says why there can be none.
    pub fn plant(&self, root: &Path) -> Result<String, String> {
        let path = root.join(self.file);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        match text.matches(self.old).count() {
            1 => Ok(text.replacen(self.old, self.new, 1)),
            count => Err(format!("{} has what it changes {count} times", self.file)),
        }
    }
}

impl Test {
    /// What builds it, and what runs it, in the root of the workspace. Where `tidy` is built, so is the
    /// broker, and with any test of real nodes the `chaos` binary.
    pub fn commands(self, target: &str) -> (String, String) {
        let cluster = |file: &str| format!("cargo test --workspace --test tidy --test {file}");
        let (build, arguments) = match self {
            Test::Simulation => {
                ("cargo test -p posthorn -p posthorn-core --test simulation".to_owned(), "")
            }
            Test::Unit(name) => ("cargo test -p posthorn -p posthorn-core --lib".to_owned(), name),
            Test::File(file, name) => (cluster(file), name),
            Test::Row(name) => {
                let run = format!("{target}/debug/chaos {name}");
                return (format!("{} --no-run", cluster("faults")), run);
            }
        };
        (format!("{build} --no-run"), format!("{build} {arguments}"))
    }
}
