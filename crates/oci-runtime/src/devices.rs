//! Which devices a container may use, on cgroup v2.
//!
//! On v1 libcontainer writes the rules to the devices controller. cgroup v2 has none: a BPF program
//! decides, and libcontainer would need libbpf for it; without, it leaves the rules out without a
//! word. So we write the program, a few dozen instructions, and attach it before init may start.

use crate::error::{Error, Result, file};
use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::os::fd::AsFd as _;
use std::path::Path;

/// Most rules that a container may have; the program grows by about ten instructions with each.
const RULE_LIMIT: usize = 4096;

/// Devices that every container may use, as runc has them: make any node, and use the standard
/// ones, terminals and tun. Type, major, minor, access; `-1` stands for all.
const STANDARD: [(LinuxDeviceType, i64, i64, &str); 12] = [
    (LinuxDeviceType::C, -1, -1, "m"),
    (LinuxDeviceType::B, -1, -1, "m"),
    (LinuxDeviceType::C, 1, 3, "rwm"),
    (LinuxDeviceType::C, 1, 5, "rwm"),
    (LinuxDeviceType::C, 1, 7, "rwm"),
    (LinuxDeviceType::C, 1, 8, "rwm"),
    (LinuxDeviceType::C, 1, 9, "rwm"),
    (LinuxDeviceType::C, 5, 0, "rwm"),
    (LinuxDeviceType::C, 5, 1, "rwm"),
    (LinuxDeviceType::C, 5, 2, "rwm"),
    (LinuxDeviceType::C, 136, -1, "rwm"),
    (LinuxDeviceType::C, 10, 200, "rwm"),
];

/// A rule as the program checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `BPF_DEVCG_DEV_*`; `None` for both.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    /// `BPF_DEVCG_ACC_*` bits.
    access: i32,
}

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE_NODE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Attaches the rules to the cgroup2 directory `cgroup`.
pub(crate) fn enforce(cgroup: &Path, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    let directory = std::fs::File::open(cgroup).map_err(file("open", cgroup))?;
    let program = gantry_sys::bpf::load_device_program(&program(&all_rules(rules)?))?;
    Ok(gantry_sys::bpf::attach_device_program(directory.as_fd(), program.as_fd())?)
}

fn all_rules(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    if rules.len() > RULE_LIMIT {
        return Err(Error::Invalid(format!("{} device rules are more than {RULE_LIMIT}", rules.len())));
    }
    let mut all = Vec::with_capacity(rules.len() + STANDARD.len());
    for rule in rules {
        let typ = rule.typ().unwrap_or_default();
        let access = rule.access().as_deref().unwrap_or("rwm");
        all.push(checked(rule.allow(), typ, rule.major().unwrap_or(-1), rule.minor().unwrap_or(-1), access)?);
    }
    for (typ, major, minor, access) in STANDARD {
        all.push(checked(true, typ, major, minor, access)?);
    }
    Ok(all)
}

fn checked(allow: bool, typ: LinuxDeviceType, major: i64, minor: i64, access: &str) -> Result<Rule> {
    let number = |n: i64| match n {
        -1 => Ok(None),
        n => i32::try_from(n).ok().filter(|n| *n >= 0).map(Some).ok_or(n),
    };
    let wrong = |n: i64| Error::Invalid(format!("device rule: {n} is no device number"));
    let mut bits = 0;
    for letter in access.chars() {
        bits |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MAKE_NODE,
            other => return Err(Error::Invalid(format!("device rule: access {other:?}; use r, w and m"))),
        };
    }
    let kind = match typ {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(BLOCK),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(CHARACTER),
        LinuxDeviceType::P => return Err(Error::Invalid("device rule: type p is no device".into())),
    };
    Ok(Rule {
        allow,
        kind,
        major: number(major).map_err(wrong)?,
        minor: number(minor).map_err(wrong)?,
        access: bits,
    })
}

/// The program: rules from the last to the first, the first match decides, no match denies.
///
/// Registers: r2 type, r3 access, r4 major, r5 minor, r1 scratch, r0 verdict.
fn program(rules: &[Rule]) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const MOVE: u8 = 0xb7;
    const MOVE_REGISTER: u8 = 0xbf;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const JUMP_UNLESS_EQUAL: u8 = 0x55;
    const JUMP_IF_EQUAL: u8 = 0x15;
    const EXIT: u8 = 0x95;
    let insn = |code: u8, dst: u8, src: u8, offset: i16, imm: i32| {
        u64::from(code)
            | u64::from(dst | src << 4) << 8
            | u64::from(offset as u16) << 16
            | u64::from(imm as u32) << 32
    };
    let mut program = vec![
        insn(LOAD_WORD, 2, 1, 0, 0),
        insn(MOVE_REGISTER, 3, 2, 0, 0),
        insn(AND, 2, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, 3, 0, 0, 16),
        insn(LOAD_WORD, 4, 1, 4, 0),
        insn(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        // Each test jumps over the rest of the rule; the distances are filled in at the end.
        let mut tests = Vec::new();
        for (register, wanted) in [(2, rule.kind), (4, rule.major), (5, rule.minor)] {
            if let Some(wanted) = wanted {
                tests.push((JUMP_UNLESS_EQUAL, register, wanted));
            }
        }
        // Allow: nothing is wanted beyond the rule's access. Deny: something within it is.
        let (mask, skip) = if rule.allow {
            (!rule.access & (READ | WRITE | MAKE_NODE), JUMP_UNLESS_EQUAL)
        } else {
            (rule.access, JUMP_IF_EQUAL)
        };
        let length = tests.len() + 5;
        for (position, (code, register, wanted)) in tests.into_iter().enumerate() {
            program.push(insn(code, register, 0, (length - position - 1) as i16, wanted));
        }
        program.push(insn(MOVE_REGISTER, 1, 3, 0, 0));
        program.push(insn(AND, 1, 0, 0, mask));
        program.push(insn(skip, 1, 0, 2, 0));
        program.push(insn(MOVE, 0, 0, 0, i32::from(rule.allow)));
        program.push(insn(EXIT, 0, 0, 0, 0));
    }
    program.push(insn(MOVE, 0, 0, 0, 0));
    program.push(insn(EXIT, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: serde_json::Value) -> LinuxDeviceCgroup {
        serde_json::from_value(json).unwrap()
    }

    /// The rules as OCI means them, without BPF: the last that matches decides.
    fn allowed(rules: &[Rule], kind: i32, major: i32, minor: i32, access: i32) -> bool {
        let matches = |r: &&Rule| {
            r.kind.is_none_or(|k| k == kind)
                && r.major.is_none_or(|m| m == major)
                && r.minor.is_none_or(|m| m == minor)
                && if r.allow { access & !r.access == 0 } else { access & r.access != 0 }
        };
        rules.iter().rev().find(matches).is_some_and(|r| r.allow)
    }

    /// Runs the few eBPF instructions that programs are made of.
    fn verdict(program: &[u64], kind: i32, major: i32, minor: i32, access: i32) -> bool {
        let context = [(access << 16 | kind) as u64, major as u64, minor as u64];
        let (mut r, mut at) = ([0u64; 6], 0usize);
        loop {
            let insn = program[at];
            let (code, dst, src) = (insn as u8, (insn >> 8 & 15) as usize, (insn >> 12 & 15) as usize);
            let (offset, imm) = ((insn >> 16) as i16, (insn >> 32) as i32 as i64 as u64);
            at += 1;
            let taken = match code {
                0x61 => {
                    r[dst] = context[offset as usize / 4];
                    false
                }
                0xb7 => {
                    r[dst] = imm;
                    false
                }
                0xbf => {
                    r[dst] = r[src];
                    false
                }
                0x57 => {
                    r[dst] &= imm;
                    false
                }
                0x77 => {
                    r[dst] >>= imm;
                    false
                }
                0x55 => r[dst] != imm,
                0x15 => r[dst] == imm,
                0x95 => return r[0] == 1,
                other => panic!("instruction {other:#x}"),
            };
            if taken {
                at = at.checked_add_signed(offset.into()).unwrap();
            }
        }
    }

    #[test]
    fn the_program_means_the_rules() {
        let rules = all_rules(&[
            rule(serde_json::json!({"allow": false, "access": "rwm"})),
            rule(serde_json::json!({"allow": true, "type": "b", "major": 8, "access": "r"})),
            rule(serde_json::json!({"allow": false, "type": "b", "major": 8, "minor": 1, "access": "r"})),
            rule(serde_json::json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"})),
        ])
        .unwrap();
        let program = program(&rules);
        for kind in [BLOCK, CHARACTER] {
            for (major, minor) in [(1, 3), (8, 0), (8, 1), (10, 229), (10, 200), (5, 9), (136, 7), (254, 0)] {
                for access in 1..8 {
                    let want = allowed(&rules, kind, major, minor, access);
                    let got = verdict(&program, kind, major, minor, access);
                    assert_eq!(got, want, "kind {kind} {major}:{minor} access {access}");
                }
            }
        }
        assert!(allowed(&rules, BLOCK, 8, 0, READ) && !allowed(&rules, BLOCK, 8, 0, WRITE));
        assert!(!allowed(&rules, BLOCK, 8, 1, READ) && allowed(&rules, BLOCK, 8, 1, MAKE_NODE));
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for bad in [
            serde_json::json!({"allow": true, "type": "c", "major": -2}),
            serde_json::json!({"allow": true, "type": "c", "access": "x"}),
            serde_json::json!({"allow": true, "type": "p"}),
        ] {
            assert!(all_rules(&[rule(bad.clone())]).is_err(), "{bad}");
        }
    }

    /// The kernel verifies the program and obeys it; needs root and a cgroup2 mount.
    #[test]
    fn the_kernel_obeys_the_program() {
        let mounts = gantry_cgroup::Hierarchies::detect().unwrap();
        let unified = Path::new("/sys/fs/cgroup/unified");
        let root = if unified.is_dir() { unified } else { mounts.mounts().next().unwrap() };
        let cgroup = root.join(format!("gantry-test-devices-{}", std::process::id()));
        std::fs::create_dir(&cgroup).unwrap();
        enforce(&cgroup, &[rule(serde_json::json!({"allow": false, "access": "rwm"}))]).unwrap();
        let script = format!(
            "echo $$ > {}/cgroup.procs && head -c1 /dev/zero >/dev/null && ! head -c1 /dev/mem 2>/dev/null \
             && ! (: </dev/kmsg) 2>/dev/null",
            cgroup.display()
        );
        let output = std::process::Command::new("sh").args(["-c", &script]).output();
        let removed = std::fs::remove_dir(&cgroup);
        let output = output.unwrap();
        removed.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // What was refused above is there and readable outside.
        std::fs::File::open("/dev/kmsg").unwrap();
    }
}
