//! The options as text: a complete file, and the table of the documentation.

use super::{OPTIONS, OptionSpec, Shape};
use std::fmt::Write as _;

/// Width at which comments are broken.
const WIDTH: usize = 96;

/// A file with every option at its default, each with its help as a comment.
pub fn default_file() -> String {
    let mut text = String::from(
        "# Configuration of gantry serve: every option at its default.\n\
         # Files in the directory of this name plus .d override it, by name; flags override both.\n",
    );
    // A table takes all keys that follow it: tables come last.
    let (named, others): (Vec<_>, Vec<_>) = OPTIONS.iter().partition(|o| o.shape == Shape::Named);
    for option in others {
        text.push('\n');
        comment(&mut text, option);
        text.push_str(&format!("{} = {}\n", option.key, option.default));
    }
    for option in named {
        text.push('\n');
        comment(&mut text, option);
        text.push_str(&format!("[{}]\n# name = \"/path/to/program\"\n", option.key));
    }
    text
}

/// Every option as a table in Markdown.
pub fn markdown_table() -> String {
    let mut text = String::from("| flag | key | default | meaning |\n|---|---|---|---|\n");
    for option in OPTIONS {
        let more = match option.shape {
            Shape::One => "",
            Shape::List => " May be given more than once; a list in the file.",
            Shape::Named => " May be given more than once; a table in the file.",
        };
        let values = match option.choices {
            [] => option.placeholder.to_owned(),
            choices => choices.join("\\|"),
        };
        let default = match option.default {
            "\"\"" | "{}" => "none".to_owned(),
            toml => format!("`{toml}`"),
        };
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            text,
            "| `--{} {values}` | `{}` | {default} | {}{more} |",
            option.flag,
            option.key,
            option.help()
        );
    }
    text
}

fn comment(text: &mut String, option: &OptionSpec) {
    let mut line = String::from("#");
    let choices = match option.choices {
        [] => String::new(),
        choices => format!(" One of {}.", choices.join(", ")),
    };
    for word in format!("{}{choices}", option.help()).split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
