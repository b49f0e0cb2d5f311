//! Runs queries over ten million events with netconn-search, and with DuckDB over the same files.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use xtask::{cargo, check};

use crate::{Bench, child::Running, figures::Figure, table::BenchReport, workspace::Workspace};

const EVENTS: u64 = 10_000_000;
/// The Python script that runs DuckDB.
const PYTHON: &str = include_str!("search.py");
const PEER: &str = "duckdb==2.0.0";

/// A query in both languages; the SQL reads `{files}`.
struct QueryPair {
    name: &'static str,
    query: &'static str,
    sql: &'static str,
}

const QUERIES: [QueryPair; 6] = [
    QueryPair {
        name: "filter",
        query: "event.type = 'IP Connect' and src.process.cmdline contains '--worker 17' and dst.port.number = 22 \
                | columns event.time, src.process.name, dst.ip.address | nolimit",
        sql: r#"SELECT "event.time", "src.process.name", "dst.ip.address" FROM {files} WHERE "event.type" = 'IP Connect'
                AND "src.process.cmdline" ILIKE '%--worker 17%' AND "dst.port.number" = 22"#,
    },
    QueryPair {
        name: "group",
        query: "event.type = 'IP Connect' | group n = count() by dst.ip.address, dst.port.number \
                | sort -n, dst.ip.address, dst.port.number | limit 100",
        sql: r#"SELECT "dst.ip.address", "dst.port.number", count(*) n FROM {files} WHERE "event.type" = 'IP Connect'
                GROUP BY ALL ORDER BY n DESC, "dst.ip.address", "dst.port.number" LIMIT 100"#,
    },
    QueryPair {
        name: "distinct count",
        query: "event.type = 'IP Connect' | group n = count_distinct(remote.ip.address) by src.process.name",
        sql: r#"SELECT "src.process.name", count(DISTINCT "remote.ip.address") FROM {files} WHERE "event.type" = 'IP Connect'
                GROUP BY ALL"#,
    },
    QueryPair {
        name: "top",
        query: "event.type = 'IP Close' | top 10 bytes = sum(event.network.bytesSent) by remote.ip.address",
        sql: r#"SELECT "remote.ip.address", sum("event.network.bytesSent")::BIGINT bytes FROM {files}
                WHERE "event.type" = 'IP Close' GROUP BY ALL ORDER BY bytes DESC LIMIT 10"#,
    },
    QueryPair {
        name: "time buckets",
        query: "event.type = 'IP Connect' | group n = count(), sent = max(src.port.number) by t = timebucket('1h') \
                | columns n, sent | nolimit",
        sql: r#"SELECT n, sent FROM (SELECT "event.time" // 3600000 t, count(*) n, max("src.port.number") sent FROM {files}
                WHERE "event.type" = 'IP Connect' GROUP BY ALL)"#,
    },
    QueryPair {
        name: "join",
        query: "| inner join a = (event.type = 'IP Connect' | group n = count() by remote.ip.address), \
                b = (event.type = 'IP Close' | group bytes = sum(event.network.bytesSent) by remote.ip.address) \
                on remote.ip.address | columns remote.ip.address, n, bytes | sort -bytes, remote.ip.address | limit 100",
        sql: r#"SELECT * FROM (SELECT "remote.ip.address", count(*) n FROM {files} WHERE "event.type" = 'IP Connect' GROUP BY ALL)
                JOIN (SELECT "remote.ip.address", sum("event.network.bytesSent")::BIGINT bytes FROM {files}
                WHERE "event.type" = 'IP Close' GROUP BY ALL) USING ("remote.ip.address")
                ORDER BY bytes DESC, "remote.ip.address" LIMIT 100"#,
    },
];

/// Installs DuckDB. Call this before `enter_namespace`, because the namespace has no route to the Internet. If it
/// fails, the report says so and netconn-search is measured alone.
pub(crate) fn prepare(workspace: &Workspace) {
    let folder = workspace.reused_path(PEER);
    let install = || {
        check(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        check(Command::new(folder.join("bin/pip")).args(["install", "--quiet", PEER]))
    };
    if !folder.exists()
        && let Err(error) = install()
    {
        eprintln!("DuckDB: {error:#}");
        // An unfinished environment would be taken for a finished one by the next run.
        let _ = fs::remove_dir_all(&folder);
    }
}

/// Measures all queries, one after the other in each round.
pub(crate) fn run(bench: &Bench, report: &mut BenchReport) -> Result<()> {
    check(&mut cargo(&["build", "--profile", "search", "--package", "netconn-search"]))?;
    let program = bench.workspace.search();
    let (folder, few) = (generate_events(bench, &program, EVENTS)?, generate_events(bench, &program, 10)?);
    let files: Vec<_> = fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    let bytes: u64 = files.iter().map(|file| file.metadata().map_or(0, |metadata| metadata.len())).sum();
    report.add(Figure::SearchBytes, "", bytes as f64 / EVENTS as f64);
    let mut duckdb = DuckDb::start(&bench.workspace.reused_path(PEER));
    match &duckdb {
        Ok(peer) => report.note(format!("DuckDB {}", peer.version)),
        Err(error) => report.note(format!("peer not installed: DuckDB ({error:#})")),
    }
    let target = SearchTarget { program: &program, folder: &folder };
    // Read all files once, so that they are in the page cache.
    target.answer("| group count()", &["--format", "csv"])?;
    for _ in bench.rounds("search") {
        for QueryPair { name, query, sql } in &QUERIES {
            let ours = target.answer(query, &["--format", "csv"])?;
            report.add(Figure::SearchTime, name, ours.seconds * 1e3);
            report.add(Figure::SearchMemory, name, ours.peak_mb);
            if *name == "group" {
                report.add(Figure::SearchGroup, "", ours.seconds * 1e3);
            }
            // Without DuckDB only netconn-search is measured.
            let Ok(peer) = &mut duckdb else { continue };
            let theirs = peer.answer(&sql.replace("{files}", &format!("'{}/*.parquet'", folder.display())))?;
            report.add(Figure::DuckDbTime, name, theirs.seconds * 1e3);
            report.add(Figure::SearchRatio, name, ours.seconds / theirs.seconds);
            report.add(Figure::SearchSame, name, f64::from(u8::from(ours.rows == theirs.rows)));
        }
        measure_hour(&target, report)?;
        let start = SearchTarget { folder: &few, ..target }.answer("", &["--format", "csv"])?;
        report.add(Figure::SearchStart, "", start.seconds * 1e3);
    }
    Ok(())
}

/// Measures a query over one hour in the middle of the month.
fn measure_hour(target: &SearchTarget<'_>, report: &mut BenchReport) -> Result<()> {
    let range = ["--since", "2026-10-15T12:00:00Z", "--until", "2026-10-15T13:00:00Z"];
    // `group`, of which the whole month is a figure too.
    let QueryPair { query, .. } = QUERIES[1];
    let result = target.answer(query, &[&range[..], &["--format", "csv"]].concat())?;
    report.add(Figure::SearchHour, "", result.seconds * 1e3);
    let output = target.command(query, &[&range[..], &["--format", "json"]].concat()).stderr(Stdio::null()).output()?;
    let answer: Value = serde_json::from_slice(&output.stdout).context("no JSON")?;
    let read = answer["files"].as_f64().unwrap_or(f64::NAN) - answer["files_pruned"].as_f64().unwrap_or(f64::NAN);
    report.add(Figure::SearchHourFiles, "", read);
    Ok(())
}

/// Returns a folder with `count` events as Parquet. The first run creates it.
fn generate_events(bench: &Bench, program: &Path, count: u64) -> Result<PathBuf> {
    let folder = bench.workspace.reused_path(&format!("events-{count}"));
    if folder.exists() {
        return Ok(folder);
    }
    eprintln!("search: generating {count} events");
    let making = folder.with_extension("making");
    let _ = fs::remove_dir_all(&making);
    fs::create_dir_all(&making)?;
    let mut load = Command::new(bench.workspace.load());
    load.arg("events").arg("--count").arg(count.to_string()).arg("--folder").arg(&making).arg("--convert").arg(program);
    check(&mut load)?;
    // Only a complete folder gets this name: an interrupted run is not taken for the events.
    fs::rename(&making, &folder)?;
    Ok(folder)
}

/// The result of a query.
struct QueryResult {
    seconds: f64,
    /// Peak resident memory in MB; NaN for DuckDB, where it is not measured.
    peak_mb: f64,
    /// Sorted rows as CSV text.
    rows: Vec<String>,
}

/// The netconn-search to run, and the folder of events to search.
#[derive(Clone, Copy)]
struct SearchTarget<'a> {
    program: &'a Path,
    folder: &'a Path,
}

impl SearchTarget<'_> {
    fn command(&self, query: &str, options: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.arg(query).arg("--file").arg(self.folder).args(options).stdin(Stdio::null());
        command
    }

    fn answer(&self, query: &str, options: &[&str]) -> Result<QueryResult> {
        let since = Instant::now();
        let mut running = Running::start(self.command(query, options).stdout(Stdio::piped()).stderr(Stdio::null()))?;
        let mut text = String::new();
        running.0.stdout.take().context("no output")?.read_to_string(&mut text)?;
        let (status, peak_kb) = running.finish()?;
        let seconds = since.elapsed().as_secs_f64();
        if !status.success() {
            bail!("{query}: {status}");
        }
        // Sorted, because some queries leave the order open. The first line is the header.
        let mut rows: Vec<String> = text.lines().skip(1).map(|line| line.trim_end().to_owned()).collect();
        rows.sort_unstable();
        Ok(QueryResult { seconds, peak_mb: peak_kb as f64 / 1e3, rows })
    }
}

/// A running Python with DuckDB.
struct DuckDb {
    _running: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    version: String,
}

impl DuckDb {
    fn start(folder: &Path) -> Result<Self> {
        let mut python = Command::new(folder.join("bin/python"));
        let mut running = Running::start(python.args(["-c", PYTHON]).stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = running.0.stdin.take().context("no input")?;
        let output = BufReader::new(running.0.stdout.take().context("no output")?);
        let mut started = Self { _running: running, input, output, version: String::new() };
        let version = started.line()?["version"].as_str().context("no version")?.to_owned();
        Ok(Self { version, ..started })
    }

    fn answer(&mut self, sql: &str) -> Result<QueryResult> {
        writeln!(self.input, "{}", json!({ "sql": sql }))?;
        let answer = self.line()?;
        let cell = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
        let row = |row: &Value| row.as_array().map(|row| row.iter().map(cell).collect::<Vec<_>>().join(","));
        let mut rows: Vec<String> =
            answer["rows"].as_array().context("no rows")?.iter().map(row).collect::<Option<_>>().context("no row")?;
        rows.sort_unstable();
        Ok(QueryResult { seconds: answer["seconds"].as_f64().context("no time")?, peak_mb: f64::NAN, rows })
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("DuckDB's response is no JSON: {line}"))
    }
}
