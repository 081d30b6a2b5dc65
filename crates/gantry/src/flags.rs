//! A flag for each option of the daemon, made from the table of options.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use gantry_cri_server::config::{OPTIONS, OptionSpec, Shape};

/// Options that were given, each with every value.
#[derive(Debug, Clone)]
pub(crate) struct OptionFlags(pub(crate) Vec<(&'static OptionSpec, Vec<String>)>);

impl Args for OptionFlags {
    fn augment_args(command: Command) -> Command {
        OPTIONS.iter().fold(command, |command, option| command.arg(flag(option)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OptionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for option in OPTIONS {
            let values = matches.try_get_many::<String>(option.key);
            let values = values.map_err(|e| clap::Error::raw(ErrorKind::InvalidValue, e))?;
            if let Some(values) = values {
                given.push((option, values.cloned().collect()));
            }
        }
        Ok(Self(given))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(option: &'static OptionSpec) -> Arg {
    let default = option.default.trim_matches('"');
    let help = option.help().trim_end_matches('.');
    let help = match default {
        "" | "{}" => help.to_owned(),
        _ => format!("{help} [default: {default}]"),
    };
    let action = match option.shape {
        Shape::One => ArgAction::Set,
        Shape::List | Shape::Named => ArgAction::Append,
    };
    let arg = Arg::new(option.key).long(option.flag).value_name(option.placeholder).help(help).action(action);
    match option.choices {
        [] => arg,
        choices => arg.value_parser(clap::builder::PossibleValuesParser::new(choices)),
    }
}
