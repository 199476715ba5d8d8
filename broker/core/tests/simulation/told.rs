//! How much happened: what the test demands to see.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happened {
    Opened,
    Evicted,
    Repeated,
    Fenced,
    HeirCalled,
    Elected,
    Admitted,
    Promoted,
    Demoted,
    Replaced,
    Dismissed,
    /// Another leader finished a change of voters.
    Settled,
    HandedOver,
    DiskLost,
    /// An operator wanted a node removed, and it was.
    Removed,
    /// Somebody was no member any more.
    Outside,
    /// A node was drained, and nothing of it was left to others.
    Drained,
    /// A node left before all was settled.
    DrainedInPart,
    /// A leader was drained.
    LeaderDrained,
}

#[derive(Debug, Default)]
pub(crate) struct Told(std::collections::BTreeMap<Happened, u64>);

impl Told {
    const ALL: &[Happened] = &[
        Happened::Opened,
        Happened::Evicted,
        Happened::Repeated,
        Happened::Fenced,
        Happened::HeirCalled,
        Happened::Elected,
        Happened::Admitted,
        Happened::Promoted,
        Happened::Demoted,
        Happened::Replaced,
        Happened::Dismissed,
        Happened::Settled,
        Happened::HandedOver,
        Happened::DiskLost,
        Happened::Removed,
        Happened::Outside,
        Happened::Drained,
        Happened::DrainedInPart,
        Happened::LeaderDrained,
    ];

    pub(crate) fn count(&mut self, happened: Happened) {
        *self.0.entry(happened).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Told) {
        for (happened, count) in &other.0 {
            *self.0.entry(*happened).or_default() += count;
        }
    }

    pub(crate) fn is_eventful(&self) -> bool {
        Told::ALL.iter().all(|happened| self.0.get(happened).is_some_and(|count| *count > 20))
    }
}
