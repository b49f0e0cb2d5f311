//! Checks that all BPF programs load on this kernel, and that their cost to the verifier is within `budget.toml`.

use std::collections::BTreeMap;

use netconn_tests::Daemon;
use serde::Deserialize;

#[derive(Deserialize)]
struct Budget {
    programs: BTreeMap<String, Limits>,
}

#[derive(Deserialize)]
struct Limits {
    verified: u64,
    instructions: u64,
}

#[test]
fn every_program_stays_within_its_budget() {
    let budget: Budget = toml::from_str(include_str!("../budget.toml")).unwrap();
    let health = Daemon::start().health();
    let hooks = health["hooks"].as_array().unwrap();
    let failed: Vec<_> = hooks.iter().filter(|hook| hook["verdict"] == "failed").collect();
    assert!(failed.is_empty(), "programs that should load here do not: {failed:#?}");
    let mut over = Vec::new();
    let mut counted = 0;
    for hook in hooks {
        let name = hook["hook"].as_str().unwrap();
        let Some(instructions) = hook["instructions"].as_u64() else { continue };
        // Kernels before 5.16 do not report it.
        let verified = hook["verified_instructions"].as_u64();
        counted += 1;
        println!("{name}: {instructions} instructions, {verified:?} verified");
        let Some(limits) = budget.programs.get(name) else { panic!("{name} has no budget: add it to budget.toml") };
        if instructions > limits.instructions || verified.is_some_and(|verified| verified > limits.verified) {
            over.push(format!("{name}: {instructions} instructions, {verified:?} verified"));
        }
    }
    assert!(counted >= 10, "only {counted} programs tell their size: {health:#}");
    assert!(over.is_empty(), "over budget: {over:#?}");
}
