//! The pages, and what of Markdown matters here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use crate::root;

pub struct Page {
    /// From the root of the workspace on.
    pub path: PathBuf,
    /// Blocks are cut out of it, so that the lines keep their numbers.
    pub prose: Vec<String>,
    pub blocks: Vec<Block>,
}

/// What stands between two fences.
pub struct Block {
    pub path: PathBuf,
    /// Of its first line in the page.
    pub line: usize,
    pub language: String,
    /// What else stands behind the opening fence.
    pub marks: Vec<String>,
    pub text: String,
}

impl Page {
    pub fn read(path: impl Into<PathBuf>) -> Page {
        let path = path.into();
        let text = std::fs::read_to_string(root().join(&path));
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (mut prose, mut blocks) = (Vec::new(), Vec::new());
        let mut open: Option<(Block, usize)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            prose.push(String::new());
            match (line.trim().strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take().map(|(block, _)| block)),
                (Some(info), None) => {
                    let mut words = info.split_whitespace().map(str::to_owned);
                    let block = Block {
                        path: path.clone(),
                        line: number + 2,
                        language: words.next().unwrap_or_default(),
                        marks: words.collect(),
                        text: String::new(),
                    };
                    open = Some((block, indent));
                }
                (None, Some((block, indent))) => {
                    block.text.push_str(line.get(*indent..).unwrap_or(line.trim_start()));
                    block.text.push('\n');
                }
                (None, None) => line.clone_into(&mut prose[number]),
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", path.display());
        Page { path, prose, blocks }
    }

    /// What a link may name behind its `#`, as GitHub makes it of headings.
    pub fn anchors(&self) -> BTreeSet<String> {
        let mut seen = BTreeMap::<String, u32>::new();
        let mut anchors = BTreeSet::new();
        for line in &self.prose {
            let heading = line.trim_start_matches('#');
            let Some(heading) = heading.strip_prefix(' ').filter(|_| line.starts_with('#')) else {
                continue;
            };
            let keep = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let anchor: String = heading.to_lowercase().chars().filter(keep).collect();
            let anchor = anchor.trim().replace(' ', "-");
            let times = seen.entry(anchor.clone()).or_default();
            anchors.insert(if *times == 0 { anchor } else { format!("{anchor}-{times}") });
            *times += 1;
        }
        anchors
    }

    /// Code within the prose, with the numbers of their lines.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let prose = self.prose.iter().enumerate();
        prose.flat_map(|(number, line)| {
            line.split('`').skip(1).step_by(2).map(move |code| (number + 1, code))
        })
    }
}

impl Block {
    /// What stands behind `name=` in its marks.
    pub fn mark(&self, name: &str) -> Option<&str> {
        self.marks.iter().find_map(|mark| mark.strip_prefix(name)?.strip_prefix('='))
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// All of them.
pub fn all() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(root().join(&folder)).expect("a folder can be listed");
        for entry in entries {
            let name = entry.expect("an entry can be read").file_name();
            let path = folder.join(&name);
            let is_page = path.extension().is_some_and(|extension| extension == "md");
            let holds_pages = !folder.as_os_str().is_empty() || name == "docs" || name == "deploy";
            if is_page {
                paths.push(path);
            } else if holds_pages && root().join(&path).is_dir() {
                folders.push(path);
            }
        }
    }
    paths.sort();
    assert!(paths.len() > 5, "{paths:?}");
    paths.into_iter().map(Page::read).collect()
}
