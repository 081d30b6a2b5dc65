//! Files as people write them for Docker: `config` twice is the same and golden; wrong ones get their message.
//! After a wanted change: `GANTRY_BLESS=1`, then read the difference.

use crate::common::{golden, load, texts};
use gantry_compose::print;

#[test]
fn config_of_config_is_the_same() {
    let (texts, mut wrong) = (texts("files"), Vec::new());
    assert!(texts.len() >= 40, "{} files", texts.len());
    for (name, text) in texts {
        let project = load(&name, &text).unwrap_or_else(|e| panic!("{}", e.render()));
        let once = print::yaml(&project.model, true);
        let again = load(&name, &once).unwrap_or_else(|e| panic!("{}\n{once}", e.render()));
        if print::yaml(&again.model, true) != once {
            wrong.push(format!("{name}:\n{once}\n->\n{}", print::yaml(&again.model, true)));
        }
        let json = print::json(&project.model, true).to_string();
        let from_json = load(&name, &json).unwrap_or_else(|e| panic!("{}\n{json}", e.render()));
        assert_eq!(print::json(&from_json.model, true).to_string(), json, "{name}");
        golden("golden", &format!("{name}.config.yaml"), &once, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn wrong_files_get_their_message() {
    let (texts, mut wrong) = (texts("wrong"), Vec::new());
    assert!(texts.len() >= 5);
    for (name, text) in texts {
        let error = load(&name, &text).err().unwrap_or_else(|| panic!("{name} is right"));
        golden("wrong", &format!("{name}.txt"), &error.render(), &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
