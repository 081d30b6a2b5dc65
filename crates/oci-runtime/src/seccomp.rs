//! From an OCI seccomp profile to a program for the kernel.
//!
//! libcontainer loads profiles for init only, leaves `exec` without one, and loads them at a moment
//! when a profile without no_new_privs fails. So we compile the profile before anything is made (an
//! error costs nothing then) and load it last, right before the program is executed, the same way
//! for init and exec.
//!
//! A profile lists what its author knew. A system call that is newer than everything in an
//! allow-list must fail with `ENOSYS`, on which C libraries fall back to an older call, and not with
//! the profile's `EPERM`, on which they give up; see [`Unknown`].

use crate::error::{Error, Result};
use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use std::collections::HashSet;
use std::io::{Read as _, Seek as _};

/// Error number that a rule returns when the profile names none: `EPERM`.
const DEFAULT_ERRNO: u32 = 1;

/// `ENOSYS`, the same on all architectures that we build for.
const ENOSYS: u32 = 38;

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    program: Vec<u8>,
    flags: u32,
}

impl Filter {
    /// Compiles a profile.
    ///
    /// # Errors
    ///
    /// [`Error::Seccomp`] for what cannot be enforced as written, such as a rule that restricts a
    /// system call unknown to this host's libseccomp; rules that allow an unknown call are dropped.
    pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Self> {
        refuse_notify(profile)?;
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        let fail =
            |what: String| move |e: libseccomp::error::SeccompError| Error::Seccomp(format!("{what}: {e}"));
        let mut context = ScmpFilterContext::new(default).map_err(fail("new filter".into()))?;
        for arch in profile.architectures().iter().flatten() {
            context.add_arch(scmp_arch(*arch)).map_err(fail(format!("architecture {arch}")))?;
        }
        for rule in profile.syscalls().iter().flatten() {
            add_rule(&mut context, rule, default, profile.default_action())?;
        }
        let mut program = Unknown::of(profile).program();
        program.extend(export(&context)?);
        let count = program.len() / gantry_sys::seccomp::INSTRUCTION_BYTES;
        if count > gantry_sys::seccomp::MAX_INSTRUCTIONS {
            return Err(Error::Seccomp(format!("{count} instructions are more than the kernel takes")));
        }
        Ok(Self { program, flags: flags(profile) })
    }

    /// For keeping it beside the container: `exec` loads the same one.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.flags.to_ne_bytes().to_vec();
        bytes.extend(&self.program);
        bytes
    }

    /// What [`Filter::to_bytes`] gave.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::Seccomp("the compiled filter kept with the container is damaged".into());
        let (flags, program) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
        if program.is_empty() || !program.len().is_multiple_of(gantry_sys::seccomp::INSTRUCTION_BYTES) {
            return Err(damaged());
        }
        Ok(Self { program: program.to_vec(), flags: u32::from_ne_bytes(*flags) })
    }

    /// Loads the filter for the calling thread; there is no way back.
    pub(crate) fn load(&self) -> Result<()> {
        Ok(gantry_sys::seccomp::load_filter(&self.program, self.flags)?)
    }
}

fn refuse_notify(profile: &LinuxSeccomp) -> Result<()> {
    let rules = profile.syscalls().iter().flatten().map(LinuxSyscall::action);
    if rules.chain([profile.default_action()]).any(|a| a == LinuxSeccompAction::ScmpActNotify) {
        return Err(crate::error::unsupported("the seccomp action SCMP_ACT_NOTIFY"));
    }
    Ok(())
}

fn add_rule(
    context: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    default: ScmpAction,
    default_kind: LinuxSeccompAction,
) -> Result<()> {
    let wanted = action(rule.action(), rule.errno_ret())?;
    if wanted == default {
        // libseccomp refuses a rule that says what happens anyway.
        return Ok(());
    }
    for name in rule.names() {
        let Ok(call) = ScmpSyscall::from_name(name) else {
            if strictness(rule.action()) > strictness(default_kind) {
                return Err(Error::Seccomp(format!(
                    "{name} is to be restricted, but libseccomp on this host does not know it; \
                     remove the rule or install a newer libseccomp"
                )));
            }
            continue;
        };
        let fail = |e| Error::Seccomp(format!("rule for {name}: {e}"));
        for condition in conditions(rule.args().as_deref().unwrap_or_default())? {
            context.add_rule_conditional(wanted, call, &condition).map(drop).map_err(fail)?;
        }
    }
    Ok(())
}

/// How much an action keeps a process from doing.
fn strictness(action: LinuxSeccompAction) -> u8 {
    match action {
        LinuxSeccompAction::ScmpActAllow => 0,
        LinuxSeccompAction::ScmpActLog => 1,
        LinuxSeccompAction::ScmpActTrace | LinuxSeccompAction::ScmpActNotify => 2,
        LinuxSeccompAction::ScmpActErrno => 3,
        LinuxSeccompAction::ScmpActTrap => 4,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 5,
        LinuxSeccompAction::ScmpActKillProcess => 6,
    }
}

/// The comparisons of each kernel rule that a profile's rule becomes.
///
/// All comparisons of a rule have to hold, but libseccomp takes one per argument: where a profile
/// compares an argument twice, each comparison makes a rule of its own, as in runc.
fn conditions(args: &[LinuxSeccompArg]) -> Result<Vec<Vec<ScmpArgCompare>>> {
    let compare = |arg: &LinuxSeccompArg| {
        let index = u32::try_from(arg.index()).ok().filter(|i| *i < 6);
        let index = index.ok_or_else(|| Error::Seccomp(format!("no argument {}", arg.index())))?;
        Ok(match operator(arg.op(), arg.value()) {
            // For a masked comparison the profile's value is the mask and its second the datum.
            masked @ ScmpCompareOp::MaskedEqual(_) => {
                ScmpArgCompare::new(index, masked, arg.value_two().unwrap_or(0))
            }
            op => ScmpArgCompare::new(index, op, arg.value()),
        })
    };
    let all = args.iter().map(compare).collect::<Result<Vec<_>>>()?;
    let distinct: HashSet<usize> = args.iter().map(LinuxSeccompArg::index).collect();
    if distinct.len() == args.len() { Ok(vec![all]) } else { Ok(all.into_iter().map(|c| vec![c]).collect()) }
}

fn operator(op: LinuxSeccompOperator, mask: u64) -> ScmpCompareOp {
    match op {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(mask),
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction> {
    let number = errno.unwrap_or(DEFAULT_ERRNO);
    let range = |_| Error::Seccomp(format!("errnoRet {number} is out of range"));
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => {
            ScmpAction::Errno(i32::from(i16::try_from(number).map_err(range)?))
        }
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(u16::try_from(number).map_err(range)?),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(crate::error::unsupported("the seccomp action SCMP_ACT_NOTIFY"));
        }
    })
}

/// `SECCOMP_FILTER_FLAG_*` of seccomp(2).
fn flags(profile: &LinuxSeccomp) -> u32 {
    let bit = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
        // Only means something to a listener, and there is none (see `refuse_notify`).
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    profile.flags().iter().flatten().map(bit).fold(0, |all, bit| all | bit)
}

fn export(context: &ScmpFilterContext) -> Result<Vec<u8>> {
    let fail = |what: &str, e: &dyn std::fmt::Display| Error::Seccomp(format!("{what}: {e}"));
    let memory = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|e| fail("memfd_create", &e))?;
    context.export_bpf(&memory).map_err(|e| fail("compile", &e))?;
    let mut memory = std::fs::File::from(memory);
    let mut program = Vec::new();
    memory
        .rewind()
        .and_then(|()| memory.read_to_end(&mut program))
        .map_err(|e| fail("read the compiled filter", &e))?;
    Ok(program)
}

/// The newest system call that a profile names, for each architecture: what lies beyond is unknown
/// to its author.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unknown {
    /// Architecture as the kernel's `seccomp_data.arch` has it, and the highest number.
    newest: Vec<(u32, u32)>,
    /// The profile speaks of x32, whose calls come under x86-64.
    x32: bool,
}

/// x32 calls come under the x86-64 architecture, with this bit set in their number.
const X32_BIT: u32 = 0x4000_0000;

impl Unknown {
    /// Only for profiles that fail what they do not list: others already say what they want.
    fn of(profile: &LinuxSeccomp) -> Self {
        let fails = profile.default_action() == LinuxSeccompAction::ScmpActErrno
            && profile.default_errno_ret().unwrap_or(DEFAULT_ERRNO) != ENOSYS;
        if !fails {
            return Self::default();
        }
        let mut archs = vec![ScmpArch::native()];
        archs.extend(profile.architectures().iter().flatten().map(|a| scmp_arch(*a)));
        let mut newest: Vec<(u32, u32)> = Vec::new();
        for &arch in &archs {
            // x32 shares its architecture word with x86-64 and gets no new calls.
            let Some(word) = audit_arch(arch) else { continue };
            let number = |name: &String| {
                let call = ScmpSyscall::from_name_by_arch(name, arch).ok()?;
                u32::try_from(call.as_raw_syscall()).ok()
            };
            let rules = profile.syscalls().iter().flatten();
            let highest = rules.flat_map(LinuxSyscall::names).filter_map(number).max();
            if let (Some(highest), false) = (highest, newest.iter().any(|(a, _)| *a == word)) {
                newest.push((word, highest));
            }
        }
        Self { newest, x32: archs.contains(&ScmpArch::X32) }
    }

    /// Classic BPF to run in front of libseccomp's program, which starts from nothing.
    fn program(&self) -> Vec<u8> {
        const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
        const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
        const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
        const GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
        const RETURN: u16 = 0x06; // BPF_RET | BPF_K
        const OFFSET_NUMBER: u32 = 0;
        const OFFSET_ARCH: u32 = 4;
        const RETURN_ERRNO: u32 = 0x0005_0000;
        let mut program = Vec::new();
        let mut emit = |code: u16, if_true: u8, if_false: u8, k: u32| {
            program.extend(code.to_ne_bytes());
            program.extend([if_true, if_false]);
            program.extend(k.to_ne_bytes());
        };
        for (arch, newest) in &self.newest {
            emit(LOAD, 0, 0, OFFSET_ARCH);
            emit(EQUAL, 0, 4, *arch);
            emit(LOAD, 0, 0, OFFSET_NUMBER);
            // Where the profile says nothing of x32, its calls are as unknown as they are to a kernel without.
            emit(GREATER_OR_EQUAL, if self.x32 { 2 } else { 1 }, 0, X32_BIT);
            emit(GREATER, 0, 1, *newest);
            emit(RETURN, 0, 0, RETURN_ERRNO | ENOSYS);
        }
        program
    }
}

/// `AUDIT_ARCH_*` of the architectures whose system call numbers we know how to compare.
fn audit_arch(arch: ScmpArch) -> Option<u32> {
    match arch {
        ScmpArch::X8664 => Some(0xc000_003e),
        ScmpArch::X86 => Some(0x4000_0003),
        ScmpArch::Aarch64 => Some(0xc000_00b7),
        ScmpArch::Arm => Some(0x4000_0028),
        ScmpArch::Riscv64 => Some(0xc000_00f3),
        _ => None,
    }
}

fn scmp_arch(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::native(),
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const RETURN_ENOSYS: u32 = 0x0005_0000 | ENOSYS;

    fn profile(json: serde_json::Value) -> LinuxSeccomp {
        serde_json::from_value(json).unwrap()
    }

    /// What the kernel would answer: runs the classic BPF that filters are made of.
    fn verdict(filter: &Filter, arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        args.iter().for_each(|a| data.extend(a.to_ne_bytes()));
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
        let program: Vec<(u16, u8, u8, u32)> = filter
            .program
            .chunks_exact(8)
            .map(|b| (u16::from_ne_bytes([b[0], b[1]]), b[2], b[3], word(&b[4..8])))
            .collect();
        let (mut accumulator, mut at) = (0u32, 0usize);
        loop {
            let (code, if_true, if_false, k) = program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { if_true } else { if_false });
            match code {
                0x20 => accumulator = word(&data[k as usize..k as usize + 4]),
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => at += jump(accumulator == k),
                0x25 => at += jump(accumulator > k),
                0x35 => at += jump(accumulator >= k),
                0x45 => at += jump(accumulator & k != 0),
                0x06 => return k,
                other => panic!("instruction {other:#x} is not in the interpreter"),
            }
        }
    }

    fn number(name: &str) -> u32 {
        ScmpSyscall::from_name_by_arch(name, ScmpArch::X8664).unwrap().as_raw_syscall() as u32
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn an_allow_list_denies_what_it_does_not_name_and_admits_ignorance_of_what_is_newer() {
        let filter = Filter::compile(&profile(serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                {"names": ["read", "faccessat2", "a_call_of_the_future"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 0, "value": 0x7e02_0000u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            ],
        })))
        .unwrap();
        let newuser = 0x1000_0000u64;
        for (name, call, args, want) in [
            ("read", number("read"), [0; 6], ALLOW),
            ("mount", number("mount"), [0; 6], EPERM),
            ("clone of a thread", number("clone"), [0x0001_0f00, 0, 0, 0, 0, 0], ALLOW),
            ("clone of a user namespace", number("clone"), [newuser, 0, 0, 0, 0, 0], EPERM),
            ("older than the newest named", number("clone3"), [0; 6], EPERM),
            ("newer than the newest named", number("faccessat2") + 1, [0; 6], RETURN_ENOSYS),
            ("far in the future", 9_999, [0; 6], RETURN_ENOSYS),
            ("x32 read", X32_BIT, [0; 6], ALLOW),
        ] {
            assert_eq!(verdict(&filter, X86_64, call, args), want, "{name}");
        }
        // i386 numbers are its own: 3 is read, 21 mount.
        assert_eq!(verdict(&filter, 0x4000_0003, 3, [0; 6]), ALLOW);
        assert_eq!(verdict(&filter, 0x4000_0003, 21, [0; 6]), EPERM);
        assert_eq!(verdict(&filter, 0x4000_0003, 9_999, [0; 6]), RETURN_ENOSYS);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn x32_is_unknown_to_a_profile_that_does_not_name_it() {
        let filter = Filter::compile(&profile(serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["read", "faccessat2"], "action": "SCMP_ACT_ALLOW"}],
        })))
        .unwrap();
        for (name, arch, call, want) in [
            ("x32 read", X86_64, X32_BIT, RETURN_ENOSYS),
            ("the last x32 call", X86_64, u32::MAX, RETURN_ENOSYS),
            ("read", X86_64, number("read"), ALLOW),
            ("mount", X86_64, number("mount"), EPERM),
            ("newer", X86_64, number("faccessat2") + 1, RETURN_ENOSYS),
            ("i386 read", 0x4000_0003, 3, ALLOW),
        ] {
            assert_eq!(verdict(&filter, arch, call, [0; 6]), want, "{name}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_deny_list_stays_one() {
        let filter = Filter::compile(&profile(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22},
                {"names": ["socket"], "action": "SCMP_ACT_KILL_PROCESS", "args": [
                    {"index": 0, "value": 16, "op": "SCMP_CMP_EQ"},
                    {"index": 0, "value": 17, "op": "SCMP_CMP_EQ"}]},
            ],
        })))
        .unwrap();
        assert_eq!(verdict(&filter, X86_64, number("unshare"), [0; 6]), 0x0005_0016);
        assert_eq!(verdict(&filter, X86_64, 9_999, [0; 6]), ALLOW);
        for (domain, want) in [(2, ALLOW), (16, 0x8000_0000), (17, 0x8000_0000)] {
            assert_eq!(verdict(&filter, X86_64, number("socket"), [domain, 0, 0, 0, 0, 0]), want, "{domain}");
        }
    }

    /// Gantry's default profile as `pod-sandbox` writes it, in what the kernel makes of it.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_default_profile_keeps_its_promises() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../pod-sandbox/tests/golden/spec/kubelet.json");
        let spec: serde_json::Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
        let filter = Filter::compile(&profile(spec["linux"]["seccomp"].clone())).unwrap();
        let first = |value: u64| [value, 0, 0, 0, 0, 0];
        for (name, args, want) in [
            ("read", [0; 6], ALLOW),
            ("execve", [0; 6], ALLOW),
            ("socket", first(2), ALLOW),
            ("socket", first(40), EPERM),
            ("clone", first(0x0001_0f00), ALLOW),
            ("clone", first(0x1000_0000), EPERM),
            ("clone", first(0x0002_0000), EPERM),
            ("clone3", [0; 6], RETURN_ENOSYS),
            ("personality", first(0xffff_ffff), ALLOW),
            ("personality", first(0x0040_0000), EPERM),
            ("mount", [0; 6], EPERM),
            ("unshare", [0; 6], EPERM),
            ("setns", [0; 6], EPERM),
            ("bpf", [0; 6], EPERM),
            ("keyctl", [0; 6], EPERM),
            ("add_key", [0; 6], EPERM),
            ("userfaultfd", [0; 6], EPERM),
            ("io_uring_setup", [0; 6], EPERM),
            ("perf_event_open", [0; 6], EPERM),
            ("open_by_handle_at", [0; 6], EPERM),
            ("init_module", [0; 6], EPERM),
            ("kexec_load", [0; 6], EPERM),
            ("swapon", [0; 6], EPERM),
            ("reboot", [0; 6], EPERM),
        ] {
            assert_eq!(verdict(&filter, X86_64, number(name), args), want, "{name} {args:?}");
        }
        assert_eq!(verdict(&filter, X86_64, 9_999, [0; 6]), RETURN_ENOSYS);
    }

    #[test]
    fn a_filter_survives_being_kept() {
        let filter =
            Filter::compile(&profile(serde_json::json!({"defaultAction": "SCMP_ACT_LOG", "flags": [
                "SECCOMP_FILTER_FLAG_LOG"]})))
            .unwrap();
        assert_eq!(filter.flags, 2);
        assert_eq!(Filter::from_bytes(&filter.to_bytes()).unwrap(), filter);
        for damaged in [&[][..], &[0; 4], &[0; 11]] {
            assert!(Filter::from_bytes(damaged).is_err());
        }
    }

    #[test]
    fn what_cannot_be_enforced_is_refused() {
        for (what, json) in [
            (
                "deny of a call that libseccomp does not know",
                serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["a_call_of_the_future"], "action": "SCMP_ACT_ERRNO"}]}),
            ),
            ("notify", serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
            (
                "notify in a rule",
                serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]}),
            ),
            (
                "an argument that there is not",
                serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO",
                                  "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
            ),
            (
                "errno out of range",
                serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}),
            ),
        ] {
            assert!(Filter::compile(&profile(json)).is_err(), "{what}");
        }
    }
}
