//! Parses, checks and prints any text. Nothing may panic, and the printed query must parse to an equal one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netconn_query::{Fields, check, parse, printer};

fuzz_target!(|text: &str| {
    let parsed = parse(text);
    for diagnostic in &parsed.diagnostics {
        diagnostic.render(text);
        diagnostic.report(text);
    }
    let Some(query) = parsed.query else { return };
    for diagnostic in check(&query, &Fields::new(["other"])).diagnostics {
        diagnostic.report(text);
    }
    let printed = printer::lines(&query);
    let again = parse(&printed);
    // The canonical form adds parentheses, which can exceed the limit of nesting.
    if again.diagnostics.iter().any(|diagnostic| diagnostic.message.contains("nested too deeply")) {
        return;
    }
    let Some(again) = again.query else { panic!("printed as {printed:?}: {:?}", again.diagnostics) };
    assert!(query.same_as(&again), "printed as {printed:?}");
});
