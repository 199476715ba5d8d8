//! What is handed out beside the binary fits the binary.

use std::path::Path;
use std::process::Command;

use posthorn_chaos::process::binary;

#[test]
fn the_example_configuration_is_accepted() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/posthorn.yaml");
    let output = Command::new(binary()).arg("check").arg(&example).output();
    let output = output.expect("the binary can be started");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}
