//! From a seccomp profile to the program that the kernel runs before every system call.
//!
//! Decisions are those of runc with libseccomp: a call of another ABI kills; one beyond the last
//! that the profile names answers ENOSYS, so that libraries take it for an older kernel and fall
//! back; any other that is not named gets the default. Names that the architecture lacks are left
//! out.
//!
//! A profile becomes ranges of numbers with one answer each, and the program finds the range by
//! halving: the kernel tries all numbers when a filter is loaded, for every container, and a list
//! of comparisons would cost each start a millisecond.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use super::config::ConfigError;

/// One step of a program (`struct sock_filter`): code, jump if true, jump if false, operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Instruction(pub(super) u16, pub(super) u8, pub(super) u8, pub(super) u32);

/// `linux.seccomp` of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Profile {
    default_action: String,
    default_errno_ret: u16,
    architectures: Vec<String>,
    syscalls: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// A condition on one argument: what remains of it under the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    index: u8,
    mask: u64,
    value: u64,
}

/// What a call is answered: the action where all conditions of one of the lists hold, else the
/// default.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Always(u32),
    Where(Vec<(Vec<Condition>, u32)>),
}

/// Numbers from here on are x32's, on x86-64.
const X32: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: (&str, u32) = ("SCMP_ARCH_X86_64", 0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: (&str, u32) = ("SCMP_ARCH_AARCH64", 0xc000_00b7);

const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const ENOSYS: u32 = ERRNO | 38;

/// Where the kernel puts number, architecture and arguments (`struct seccomp_data`).
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;
const AT_ARGUMENTS: u32 = 16;

/// `BPF_LD | BPF_W | BPF_ABS` and so on (`linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// The kernel's limit (`BPF_MAXINSNS`).
const LEN_MAX: usize = 4096;

impl Profile {
    /// The program.
    pub(super) fn compile(&self) -> Result<Vec<Instruction>, ConfigError> {
        let unsupported = |what: String| ConfigError::Unsupported(what);
        if self.architectures != [ARCHITECTURE.0] {
            return Err(unsupported(format!("calls of {}", self.architectures.join(", "))));
        }
        if self.default_action != "SCMP_ACT_ERRNO" {
            return Err(unsupported(format!("the default action {}", self.default_action)));
        }
        let otherwise = ERRNO | u32::from(self.default_errno_ret);
        let answers = self.answers()?;
        let Some((&last, _)) = answers.last_key_value() else {
            return Err(unsupported("a profile that names no call".to_owned()));
        };
        // Where answers change, and the answer from there on.
        let mut ranges: Vec<(u32, Answer)> = Vec::new();
        for number in 0..=last + 1 {
            let answer = match answers.get(&number) {
                _ if number > last => Answer::Always(ENOSYS),
                Some(answer) => answer.clone(),
                None => Answer::Always(otherwise),
            };
            if ranges.last().is_none_or(|(_, before)| *before != answer) {
                ranges.push((number, answer));
            }
        }
        let mut program = vec![
            Instruction(LOAD, 0, 0, AT_ARCHITECTURE),
            Instruction(JUMP_EQUAL, 1, 0, ARCHITECTURE.1),
            Instruction(RETURN, 0, 0, libc::SECCOMP_RET_KILL_THREAD),
            Instruction(LOAD, 0, 0, AT_NUMBER),
        ];
        if cfg!(target_arch = "x86_64") {
            program.extend([
                // -1 is no number of that ABI, and what tracers put in the place of one.
                Instruction(JUMP_EQUAL, 0, 1, u32::MAX),
                Instruction(RETURN, 0, 0, otherwise),
                Instruction(JUMP_AT_LEAST, 0, 1, X32),
                Instruction(RETURN, 0, 0, libc::SECCOMP_RET_KILL_THREAD),
            ]);
        }
        program.extend(halved(&ranges, otherwise));
        if program.len() > LEN_MAX {
            return Err(unsupported(format!("a filter of {} steps", program.len())));
        }
        Ok(program)
    }

    /// The answer to each call that is named, by number.
    fn answers(&self) -> Result<BTreeMap<u32, Answer>, ConfigError> {
        let mut answers: BTreeMap<u32, Answer> = BTreeMap::new();
        for rule in &self.syscalls {
            let action = rule.action()?;
            let conditions = rule.args.iter().map(Argument::condition);
            let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
            for name in &rule.names {
                let Ok(number) = Sysno::from_str(name) else { continue };
                let number = u32::try_from(number.id()).expect("numbers of calls are positive");
                match answers.entry(number).or_insert_with(|| Answer::Where(Vec::new())) {
                    Answer::Where(cases) if conditions.is_empty() && cases.is_empty() => {
                        answers.insert(number, Answer::Always(action));
                    }
                    Answer::Where(cases) if !conditions.is_empty() => {
                        cases.push((conditions.clone(), action));
                    }
                    Answer::Where(_) | Answer::Always(_) => {
                        let what = format!("more than one rule for the call {name}");
                        return Err(ConfigError::Unsupported(what));
                    }
                }
            }
        }
        Ok(answers)
    }
}

impl Rule {
    fn action(&self) -> Result<u32, ConfigError> {
        match (self.action.as_str(), self.errno_ret) {
            ("SCMP_ACT_ALLOW", None) => Ok(libc::SECCOMP_RET_ALLOW),
            ("SCMP_ACT_ERRNO", Some(errno)) => Ok(ERRNO | u32::from(errno)),
            (action, _) => Err(ConfigError::Unsupported(format!("the action {action}"))),
        }
    }
}

impl Argument {
    fn condition(&self) -> Result<Condition, ConfigError> {
        let &Self { index, value, value_two, .. } = self;
        match self.op.as_str() {
            _ if index > 5 => {}
            "SCMP_CMP_EQ" => return Ok(Condition { index, mask: u64::MAX, value }),
            "SCMP_CMP_MASKED_EQ" => return Ok(Condition { index, mask: value, value: value_two }),
            _ => {}
        }
        Err(ConfigError::Unsupported(format!("the comparison {} of argument {index}", self.op)))
    }
}

/// Finds the range of the number that was loaded, and answers.
fn halved(ranges: &[(u32, Answer)], otherwise: u32) -> Vec<Instruction> {
    match ranges {
        [] => vec![Instruction(RETURN, 0, 0, otherwise)],
        [(_, Answer::Always(action))] => vec![Instruction(RETURN, 0, 0, *action)],
        [(_, Answer::Where(cases))] => checked(cases, otherwise),
        _ => {
            let (below, above) = ranges.split_at(ranges.len() / 2);
            let from = above.first().map_or(0, |(from, _)| *from);
            let below = halved(below, otherwise);
            // A conditional jump reaches 255 steps, another one any number.
            let mut program = vec![
                Instruction(JUMP_AT_LEAST, 0, 1, from),
                Instruction(JUMP, 0, 0, length(&below)),
            ];
            program.extend(below);
            program.extend(halved(above, otherwise));
            program
        }
    }
}

/// Answers by the arguments.
fn checked(cases: &[(Vec<Condition>, u32)], otherwise: u32) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (conditions, action) in cases {
        let mut case = vec![Instruction(RETURN, 0, 0, *action)];
        for &Condition { index, mask, value } in conditions.iter().rev() {
            // Little-endian, as both architectures are: the lower half first.
            let at = AT_ARGUMENTS + 8 * u32::from(index);
            for (at, mask, value) in
                [(at + 4, mask >> 32, value >> 32), (at, mask & LOW, value & LOW)]
            {
                let half = |value: u64| u32::try_from(value).expect("half of 64 bits");
                // Where it differs: over the rest of the case.
                let rest = u8::try_from(case.len()).expect("a few conditions");
                let test = [
                    Instruction(LOAD, 0, 0, at),
                    Instruction(AND, 0, 0, half(mask)),
                    Instruction(JUMP_EQUAL, 0, rest, half(value)),
                ];
                case.splice(0..0, test);
            }
        }
        program.extend(case);
    }
    program.push(Instruction(RETURN, 0, 0, otherwise));
    program
}

/// The lower half of 64 bits.
const LOW: u64 = 0xffff_ffff;

fn length(program: &[Instruction]) -> u32 {
    u32::try_from(program.len()).expect("a program is short")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::seccomp;

    /// What the kernel would make of a call.
    fn answer(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(architecture.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        data.extend(arguments.into_iter().flat_map(u64::to_le_bytes));
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction(code, if_true, if_false, operand) = program[at];
            at += 1;
            let mut branch =
                |taken: bool| at += usize::from(if taken { if_true } else { if_false });
            match code {
                LOAD => {
                    let from = operand as usize;
                    accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                }
                AND => accumulator &= operand,
                JUMP => at += operand as usize,
                JUMP_EQUAL => branch(accumulator == operand),
                JUMP_AT_LEAST => branch(accumulator >= operand),
                RETURN => return operand,
                _ => panic!("{code:#x}"),
            }
        }
    }

    fn number(name: &str) -> u32 {
        u32::try_from(Sysno::from_str(name).unwrap().id()).unwrap()
    }

    fn of_jobs() -> (Profile, Vec<Instruction>) {
        let profile: Profile = serde_json::from_value(seccomp::profile()).unwrap();
        let program = profile.compile().unwrap();
        (profile, program)
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const KILL: u32 = libc::SECCOMP_RET_KILL_THREAD;
    const EPERM: u32 = ERRNO | 1;

    #[test]
    fn every_call_gets_the_answer_of_its_profile_and_what_is_newer_is_unknown() {
        let (profile, program) = of_jobs();
        let named: Vec<(u32, &Rule)> = profile
            .syscalls
            .iter()
            .flat_map(|rule| rule.names.iter().map(move |name| (name, rule)))
            .filter_map(|(name, rule)| {
                Some((u32::try_from(Sysno::from_str(name).ok()?.id()).ok()?, rule))
            })
            .collect();
        let last = named.iter().map(|(number, _)| *number).max().unwrap();
        for call in 0..1000 {
            let expected = match named.iter().find(|(number, _)| *number == call) {
                _ if call > last => ENOSYS,
                Some((_, rule)) if rule.args.is_empty() => rule.action().unwrap(),
                Some(_) => continue,
                None => EPERM,
            };
            assert_eq!(answer(&program, ARCHITECTURE.1, call, [7; 6]), expected, "call {call}");
        }
        assert!(program.len() < 600, "{}", program.len());
    }

    #[test]
    fn arguments_decide_where_the_profile_says_so_and_all_of_their_bits_count() {
        let (_, program) = of_jobs();
        let ask =
            |name, first| answer(&program, ARCHITECTURE.1, number(name), [first, 0, 0, 0, 0, 0]);
        for family in 0..64 {
            let expected = if [1, 2, 10, 16].contains(&family) { ALLOW } else { EPERM };
            assert_eq!(ask("socket", family), expected, "family {family}");
        }
        assert_eq!(ask("socket", 1 | 1 << 32), EPERM);
        for personality in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
            assert_eq!(ask("personality", personality), ALLOW);
        }
        assert_eq!(ask("personality", 0x40_0000), EPERM);
        assert_eq!(ask("personality", u64::MAX), EPERM);
        assert_eq!(ask("clone", 0x1200_0011 & !0x0200_0000), EPERM);
        assert_eq!(ask("clone", 0x0120_0011), ALLOW);
        for namespace in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x1000_0000, 0x4000_0000] {
            assert_eq!(ask("clone", namespace | 17), EPERM, "{namespace:#x}");
        }
        assert_eq!(ask("clone3", 0), ENOSYS);
    }

    #[test]
    fn calls_of_other_abis_kill() {
        let (_, program) = of_jobs();
        // i386.
        assert_eq!(answer(&program, 0x4000_0003, number("getpid"), [0; 6]), KILL);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(answer(&program, ARCHITECTURE.1, X32 | number("getpid"), [0; 6]), KILL);
            assert_eq!(answer(&program, ARCHITECTURE.1, u32::MAX, [0; 6]), EPERM);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_name_of_the_profile_is_known() {
        let (profile, _) = of_jobs();
        let unknown = |name: &&String| Sysno::from_str(name).is_err();
        let names = profile.syscalls.iter().flat_map(|rule| &rule.names);
        assert_eq!(names.filter(unknown).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn what_a_filter_could_not_decide_is_refused() {
        let of = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut profile = seccomp::profile();
            change(&mut profile);
            serde_json::from_value::<Profile>(profile)
                .map_err(ConfigError::from)
                .and_then(|profile| profile.compile())
        };
        assert!(of(&|_| {}).is_ok());
        assert!(of(&|profile| profile["defaultAction"] = "SCMP_ACT_LOG".into()).is_err());
        assert!(
            of(&|profile| profile["architectures"] = serde_json::json!(["SCMP_ARCH_ARM"])).is_err()
        );
        assert!(of(&|profile| profile["flags"] = serde_json::json!([])).is_err());
        let rule = serde_json::json!({
            "names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_GT"}],
        });
        assert!(of(&|profile| profile["syscalls"] = serde_json::json!([rule])).is_err());
        assert!(of(&|profile| profile["syscalls"][0]["action"] = "SCMP_ACT_TRAP".into()).is_err());
    }
}
