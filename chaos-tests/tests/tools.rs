//! The environments of clients that others wrote.

use posthorn_chaos::tools;

#[tokio::test]
async fn packages_are_installed_once_and_can_be_used() {
    for _ in 0..2 {
        let Some(python) = tools::python(&["six==1.16.0"]).await else { return };
        let script = "import six; print(six.__version__)";
        let output = python.command("python").args(["-c", script]).output().await;
        assert_eq!(output.expect("it runs").stdout, b"1.16.0\n");
        let Some(node) = tools::node(&["is-number@7.0.0"]).await else { return };
        let script = "console.log(require('is-number')('5'))";
        let output = node.command().args(["-e", script]).output().await;
        assert_eq!(output.expect("it runs").stdout, b"true\n");
    }
}
