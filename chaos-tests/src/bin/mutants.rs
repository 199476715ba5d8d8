//! Plants bugs, one at a time, and sees whether the tests notice.
//!
//! ```console
//! $ cargo run -p posthorn-chaos --bin mutants             # all
//! $ cargo run -p posthorn-chaos --bin mutants -- reuse-id # by name
//! ```
//!
//! It works on a copy of the tree, `target/mutants/tree`, which is built in `target/mutants/target`:
//! nobody else's sources and builds are touched, and the next time little is built anew. First, each
//! command has to pass without any bug.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::Instant;

use posthorn_chaos::mutants::{ALL, Mutant, Test};

/// Who takes longer hangs, and that shows too.
const TIME_MAX_S: &str = "900";

/// A copy of the tree and what is built of it.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
}

enum Verdict {
    Caught,
    Survived,
    /// It proves nothing: why.
    Void(String),
}

fn main() -> ExitCode {
    let names: Vec<_> = std::env::args().skip(1).collect();
    let is_asked_for = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
    let asked: Vec<_> = ALL.iter().filter(|mutant| is_asked_for(mutant.name)).collect();
    if asked.is_empty() || asked.len() < names.len() {
        let names: Vec<_> = ALL.iter().map(|mutant| mutant.name).collect();
        eprintln!("mutants: they are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let copy = match Copy::make() {
        Ok(copy) => copy,
        Err(error) => {
            eprintln!("mutants: {error}");
            return ExitCode::from(2);
        }
    };
    let tests: BTreeSet<_> = asked.iter().map(|mutant| mutant.caught_by).collect();
    for test in tests {
        println!("without any: {test:?}");
        match copy.judge(test) {
            Verdict::Survived => (),
            Verdict::Caught | Verdict::Void(_) => {
                eprintln!("mutants: it fails by itself");
                return ExitCode::from(2);
            }
        }
    }
    let mut survivors = 0;
    for mutant in asked {
        let began = Instant::now();
        let verdict = copy.try_out(mutant);
        survivors += usize::from(!matches!(verdict, Verdict::Caught));
        let verdict = match verdict {
            Verdict::Caught => "caught".to_owned(),
            Verdict::Survived => format!("SURVIVED {:?}", mutant.caught_by),
            Verdict::Void(why) => format!("VOID {why}"),
        };
        println!("{:36} {:4} s  {verdict}", mutant.name, began.elapsed().as_secs());
    }
    match survivors {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

impl Copy {
    /// What is written anew is built anew, so that only what differs is written.
    fn make() -> Result<Copy, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let root = root.canonicalize().map_err(|error| error.to_string())?;
        let folder = root.join("target/mutants");
        let copy = Copy { tree: folder.join("tree"), target: folder.join("target") };
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .map_err(|error| format!("cannot list the tree: {error}"))?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let files: BTreeSet<_> = listed.split_terminator('\0').map(PathBuf::from).collect();
        let failed = |error: std::io::Error| format!("cannot copy the tree: {error}");
        // Some may be listed although they were removed.
        for file in files.iter().filter(|file| root.join(file).exists()) {
            let (from, to) = (root.join(file), copy.tree.join(file));
            if fs::read(&from).map_err(failed)? != fs::read(&to).unwrap_or_default() {
                fs::create_dir_all(to.parent().unwrap_or(&to)).map_err(failed)?;
                fs::copy(from, to).map_err(failed)?;
            }
        }
        for path in files_below(&copy.tree) {
            let file = path.strip_prefix(&copy.tree).unwrap_or(&path);
            if !files.contains(file) || !root.join(file).exists() {
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(copy)
    }

    fn try_out(&self, mutant: &Mutant) -> Verdict {
        let path = self.tree.join(mutant.file);
        let (planted, original) = match (mutant.plant(&self.tree), fs::read_to_string(&path)) {
            (Ok(planted), Ok(original)) => (planted, original),
            (Err(error), _) => return Verdict::Void(error),
            (_, Err(error)) => return Verdict::Void(error.to_string()),
        };
        if let Err(error) = fs::write(&path, planted) {
            return Verdict::Void(error.to_string());
        }
        let verdict = self.judge(mutant.caught_by);
        match fs::write(&path, original) {
            Ok(()) => verdict,
            Err(error) => Verdict::Void(error.to_string()),
        }
    }

    /// What does not even compile is not caught by any test.
    fn judge(&self, test: Test) -> Verdict {
        let (build, run) = test.commands(&self.target.display().to_string());
        match self.command(&build) {
            Ok(built) if built.status.success() => (),
            Ok(built) => return Verdict::Void(end_of(&built.stderr)),
            Err(error) => return Verdict::Void(error),
        }
        match self.command(&run) {
            Ok(ran) if ran.status.success() => Verdict::Survived,
            Ok(_) => Verdict::Caught,
            Err(error) => Verdict::Void(error),
        }
    }

    fn command(&self, words: &str) -> Result<Output, String> {
        Command::new("timeout")
            .arg(TIME_MAX_S)
            .args(words.split_whitespace())
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .output()
            .map_err(|error| format!("cannot run {words}: {error}"))
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) | Err(_) => files.push(entry.path()),
            }
        }
    }
    files
}

fn end_of(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
