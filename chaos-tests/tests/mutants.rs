//! Bugs that are planted to test the tests can be planted: the place of each is still there. Whether they
//! are caught, `cargo run -p posthorn-chaos --bin mutants` sees.

use std::collections::BTreeSet;
use std::path::Path;

use posthorn_chaos::mutants::ALL;

#[test]
fn every_bug_has_its_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for mutant in ALL {
        let planted = mutant.plant(&root);
        assert!(planted.is_ok(), "{}: {planted:?}", mutant.name);
    }
    let names: BTreeSet<_> = ALL.iter().map(|mutant| mutant.name).collect();
    assert_eq!(names.len(), ALL.len(), "each has a name of its own");
}
