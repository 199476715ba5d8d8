//! Links within the project lead to files and headings that are there.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::pages::{self, Page};
use crate::root;

#[test]
fn links_lead_to_what_is_there() {
    let pages = pages::all();
    let anchors: BTreeMap<_, _> =
        pages.iter().map(|page| (page.path.clone(), page.anchors())).collect();
    let mut faults = Vec::new();
    for (page, number, target) in pages.iter().flat_map(links) {
        let (file, anchor) = match target.split_once('#') {
            Some((file, anchor)) => (file, Some(anchor)),
            None => (&*target, None),
        };
        let folder = page.path.parent().unwrap_or(Path::new(""));
        let path = match file {
            "" => page.path.clone(),
            file => plain(&folder.join(file)),
        };
        let is_there = match (anchor, anchors.get(&path)) {
            (Some(anchor), Some(anchors)) => anchors.contains(anchor),
            (Some(_), None) => false,
            (None, _) => root().join(&path).exists(),
        };
        if !is_there {
            faults.push(format!("{}:{number}: {target}", page.path.display()));
        }
    }
    assert!(faults.is_empty(), "lead nowhere:\n{}", faults.join("\n"));
}

#[test]
fn every_page_can_be_found_from_the_readme() {
    let pages = pages::all();
    let mut found = vec![PathBuf::from("README.md")];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        let Some(page) = pages.iter().find(|page| page.path == path) else { continue };
        let folder = path.parent().unwrap_or(Path::new(""));
        for (_, _, target) in links(page) {
            let path = plain(&folder.join(target.split('#').next().unwrap_or_default()));
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    let lost: Vec<_> =
        pages.iter().map(|page| &page.path).filter(|path| !found.contains(path)).collect();
    assert!(lost.is_empty(), "nobody leads to {lost:?}");
}

#[test]
fn figures_are_those_that_were_measured() {
    let pages = pages::all();
    let readme = pages.iter().find(|page| page.path == Path::new("README.md")).expect("a README");
    let is_section = |line: &&String| line.starts_with("## ");
    let begin = readme.prose.iter().position(|line| line == "## Measured").expect("a section");
    let lines = readme.prose[begin + 1..].iter().position(|line| is_section(&line));
    let section = begin..lines.map_or(usize::MAX, |lines| begin + 1 + lines);
    let measured: String = readme
        .blocks
        .iter()
        .filter(|block| section.contains(&block.line))
        .map(|block| block.text.as_str())
        .collect();
    let mut faults = Vec::new();
    for page in &pages {
        // However the lines are broken.
        let text = page.prose.join(" ");
        let mut before: Vec<_> = text.split("](../README.md#measured)").collect();
        // Behind the last of them.
        before.pop();
        let figures = before.iter().filter_map(|before| Some(before.rsplit_once('[')?.1));
        for figure in figures.filter(|text| text.contains(|c: char| c.is_ascii_digit())) {
            if !measured.contains(figure) {
                faults.push(format!("{}: {figure}", page.path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "the README has not measured:\n{}", faults.join("\n"));
}

/// Those that stay within the project, with the numbers of their lines.
fn links(page: &Page) -> Vec<(&Page, usize, String)> {
    let mut links = Vec::new();
    for (number, line) in page.prose.iter().enumerate() {
        // Code may look like a link.
        let parts = line.split('`').enumerate();
        let line: String =
            parts.map(|(index, part)| if index % 2 == 0 { part } else { "" }).collect();
        for behind in line.split("](").skip(1) {
            let target = behind.split(')').next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                links.push((page, number + 1, target.to_owned()));
            }
        }
    }
    links
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => (),
            other => plain.push(other),
        }
    }
    plain
}
