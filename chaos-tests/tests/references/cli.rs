//! `docs/cli.md`, and what the command line does beside what the commands are for.

use std::fmt::Write as _;
use std::process::Output;

use clap::{Arg, ArgAction, Command};
use posthorn_chaos::process::binary;
use posthorn_chaos::tools;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{MADE, cell, check_page};

/// What all commands have that call a node's API.
const ACCESS: [&str; 5] = ["api", "ca_file", "cert_file", "key_file", "token_file"];

#[test]
fn the_page_of_the_command_line_is_current() {
    check_page("cli.md", &page());
}

#[test]
fn every_command_that_answers_answers_in_json_too() {
    let mut without = Vec::new();
    each(&posthorn::cli::command(), &mut |path, command| {
        let has_json = command.get_arguments().any(|argument| argument.get_id() == "json");
        if !command.has_subcommands() && !has_json {
            without.push(path.to_owned());
        }
    });
    assert_eq!(without, ["posthorn serve", "posthorn completions"]);
    let folder = TempDir::with_prefix("posthorn-").unwrap();
    let file = folder.path().join("none.yaml");
    let file = file.to_str().unwrap();
    for (arguments, code, expected) in [
        (&["version", "--json"][..], 0, json!({ "version": env!("CARGO_PKG_VERSION") })),
        (&["check", file, "--json"], 2, json!({ "good": false, "file": file })),
        (
            &["health", "--json", "--ready", "--admin", "127.0.0.1:1"],
            3,
            json!({ "ready": false, "status": null }),
        ),
        (
            &["certs", "--cluster", "a", "--nodes", "1", "--dir", file, "--json"],
            0,
            json!({ "nodes": 1, "days": 365, "cluster": "a" }),
        ),
    ] {
        let output = run(arguments);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{told}");
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&told[name], value, "{name} of {told}");
        }
    }
}

#[test]
fn what_does_not_work_says_what_to_do_next() {
    for (arguments, code, next) in [
        (&["cluster", "status", "--api", "127.0.0.1:1"][..], 3, "--api says where"),
        (&["health", "--admin", "127.0.0.1:1"], 3, "`admin.listen`"),
        (&["connect", "ws://127.0.0.1:1/dev"], 3, "`edge.listen`"),
        (&["connect", "nonsense"], 2, "ws://127.0.0.1:8080/dev"),
        (&["statsu"], 2, "Usage"),
    ] {
        let output = run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(next), "{said}");
        assert!(!said.contains('\x1b'), "no colours where nobody looks: {said}");
    }
}

#[test]
fn terminals_get_colours_unless_they_are_not_wanted() {
    let Some(_) = tools::installed("script") else { return };
    let said = |no_color: &str| {
        let failing = format!("{} health --admin 127.0.0.1:1", binary().display());
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &failing, "/dev/null"]).env("NO_COLOR", no_color);
        String::from_utf8(script.output().unwrap().stdout).unwrap()
    };
    assert!(said("").starts_with("\x1b[31mposthorn:\x1b[0m cannot reach"), "{:?}", said(""));
    assert!(said("1").starts_with("posthorn: cannot reach"), "{:?}", said("1"));
}

#[test]
fn bash_completes_commands_options_and_values() {
    let Some(_) = tools::installed("bash") else { return };
    for (words, expected) in [
        ("posthorn clu", "cluster"),
        ("posthorn cluster sta", "status"),
        ("posthorn connections list --lin", "--linearizable"),
        ("posthorn post --wait-for ans", "answered"),
        ("posthorn completions fi", "fish"),
    ] {
        let script = r#"
            source <("$POSTHORN" completions bash)
            read -ra COMP_WORDS <<< "$WORDS"
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            "$(complete -p posthorn | sed -E 's/.*-F ([^ ]+).*/\1/')" \
                posthorn "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "${COMPREPLY[@]}"
        "#;
        let mut bash = std::process::Command::new("bash");
        bash.args(["--norc", "-c", script]).env("POSTHORN", binary()).env("WORDS", words);
        let output = bash.output().unwrap();
        let (told, error) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        assert_eq!(told.unwrap().trim(), expected, "{words}: {error:?}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success() && !output.stdout.is_empty(), "{shell}");
    }
}

fn run(arguments: &[&str]) -> Output {
    std::process::Command::new(binary()).args(arguments).output().unwrap()
}

fn page() -> String {
    let root = posthorn::cli::command();
    let about = root.get_long_about().unwrap().to_string();
    let mut page = format!(
        "{MADE}# Command line\n\n{about}\n\n\
         What went wrong is said on standard error, with what to do next; colours are for terminals where \
         `NO_COLOR` is not set. With `--json`, what a program needs is on standard output, a JSON object a \
         line.\n\n## Calling a node's API\n\nCommands that call a node have these options, too:\n\n"
    );
    let post = root.find_subcommand("post").unwrap();
    page += &options(post.get_arguments().filter(|argument| is_access(argument)));
    each(&root, &mut |path, command| {
        if !command.has_subcommands() {
            page += &section(path, command);
        }
    });
    page
}

/// Visits every command that is not hidden.
fn each(command: &Command, visit: &mut impl FnMut(&str, &Command)) {
    fn go(path: &str, command: &Command, visit: &mut impl FnMut(&str, &Command)) {
        visit(path, command);
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            go(&format!("{path} {}", inner.get_name()), inner, visit);
        }
    }
    go("posthorn", command, visit);
}

fn section(path: &str, command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about()).unwrap();
    let own = || {
        let own = command.get_arguments().filter(|argument| !is_access(argument));
        own.filter(|argument| !argument.is_hide_set() && argument.get_id() != "help")
    };
    let is_needed = |argument: &&Arg| argument.is_required_set() && !argument.is_positional();
    let needed: String = own().filter(is_needed).map(|one| format!(" {}", name_of(one))).collect();
    let positional = own().filter(|argument| argument.is_positional());
    let positional: String = positional.map(|argument| format!(" {}", name_of(argument))).collect();
    let calls = if command.get_arguments().any(is_access) { " [API OPTIONS]" } else { "" };
    let optional =
        if own().any(|argument| !argument.is_required_set()) { " [OPTIONS]" } else { "" };
    let mut text = format!(
        "\n## {path}\n\n{about}\n\n```text\n{path}{needed}{calls}{optional}{positional}\n```\n"
    );
    if own().next().is_some() {
        let _ = write!(text, "\n{}", options(own()));
    }
    text
}

fn options<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut table = "| option | default | means |\n|---|---|---|\n".to_owned();
    for argument in arguments {
        let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy());
        let defaults: Vec<_> = defaults.filter(|value| !value.is_empty()).collect();
        let takes = !matches!(argument.get_action(), ArgAction::SetTrue);
        let default = match defaults.is_empty() || !takes {
            false => format!("`{}`", defaults.join(" ")),
            true if argument.is_required_set() => "**required**".to_owned(),
            true => String::new(),
        };
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string);
        let mut means = help.expect("every argument says what it is");
        let values = if takes { argument.get_possible_values() } else { Vec::new() };
        for value in values.iter().filter(|value| !value.is_hide_set()) {
            let help = value.get_help().map(|help| format!(": {help}")).unwrap_or_default();
            let _ = write!(means, "<br>`{}`{help}", value.get_name());
        }
        let _ = writeln!(table, "| `{}` | {default} | {} |", name_of(argument), cell(&means));
    }
    table
}

fn name_of(argument: &Arg) -> String {
    let value = argument.get_value_names().and_then(|names| names.first());
    let value = value.map(|name| name.to_string()).unwrap_or_default();
    match argument.get_long() {
        Some(long) if matches!(argument.get_action(), ArgAction::SetTrue) => format!("--{long}"),
        Some(long) => format!("--{long} {value}"),
        None => value,
    }
}

fn is_access(argument: &Arg) -> bool {
    ACCESS.contains(&argument.get_id().as_str())
}
