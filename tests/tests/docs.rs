//! The pages in `docs/` say what the code does.

use std::fs;
use std::path::PathBuf;

use p2p_cache::config::{DefaultValue, SETTINGS, Setting};
use p2p_cache_tests::{daemon, metrics};

/// Rewrites the generated tables instead of comparing them.
const UPDATE_VARIABLE: &str = "UPDATE_DOCS";
const SETTINGS_TABLE: &str = "settings";
const METRICS_TABLE: &str = "metrics";

const CONFIGURATION: &str = "configuration.md";
const METRICS: &str = "metrics.md";

fn page_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

fn page(name: &str) -> String {
    fs::read_to_string(page_path(name)).unwrap_or_else(|error| panic!("docs/{name}: {error}"))
}

/// The page around a generated table, and the table between its two markers.
fn split<'p>(page: &'p str, table: &str) -> (&'p str, &'p str, &'p str) {
    let (begin, end) = (format!("<!-- begin {table} -->\n"), format!("<!-- end {table} -->\n"));
    let start = page.find(&begin).unwrap_or_else(|| panic!("no {begin:?} in the page")) + begin.len();
    let length = page[start..].find(&end).unwrap_or_else(|| panic!("no {end:?} in the page"));
    (&page[..start], &page[start..start + length], &page[start + length..])
}

/// Compares a table of the page with the one that the code yields, or replaces it.
fn check(name: &str, table: &str, rendered: &str) {
    let page = page(name);
    let (before, written, after) = split(&page, table);
    if written == rendered {
        return;
    }
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        fs::write(page_path(name), format!("{before}{rendered}{after}")).expect("the page is written");
        return;
    }
    let stale = written.lines().find(|line| !rendered.contains(line)).unwrap_or("(nothing)");
    let missing = rendered.lines().find(|line| !written.contains(line)).unwrap_or("(nothing)");
    panic!(
        "the table of {table} in docs/{name} is not that of the code; rewrite it with\n  \
         {UPDATE_VARIABLE}=1 cargo nextest run -p p2p-cache-tests --test docs\nfirst stale line:   {stale}\n\
         first missing line: {missing}"
    );
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn row(setting: &Setting) -> String {
    let flag = match (setting.flag, setting.is_switch()) {
        (false, _) => "-".to_owned(),
        (true, true) => format!("`{}`", setting.flag_name()),
        (true, false) => format!("`{} {}`", setting.flag_name(), setting.value_name),
    };
    let default = match setting.default {
        DefaultValue::Text([]) => "none".to_owned(),
        DefaultValue::Text(texts) => {
            texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join("<br>")
        }
        DefaultValue::Computed(_) => "[depends on the user](#where-state-is-kept)".to_owned(),
    };
    let form = setting.remedy.strip_prefix("write ").unwrap_or(setting.remedy);
    let (key, variable, help) = (setting.key, setting.variable(), setting.help);
    let reload = if setting.live { "reload" } else { "restart" };
    let cells = [
        format!("`{key}`"),
        flag,
        format!("`{variable}`"),
        default,
        form.to_owned(),
        reload.to_owned(),
        help.to_owned(),
    ];
    format!("| {} |\n", cells.map(|text| cell(&text)).join(" | "))
}

fn settings_table() -> String {
    let head = "| key | flag | variable | default | form and unit | a change needs a | meaning and cost |\n\
                |---|---|---|---|---|---|---|\n";
    SETTINGS.iter().fold(head.to_owned(), |table, setting| table + &row(setting))
}

/// Every family in the text of `/metrics`, under the name that a query uses.
fn metrics_table(metrics: &str) -> String {
    let mut rows = Vec::new();
    for line in metrics.lines() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let of_type = format!("# TYPE {name} ");
        let kind =
            metrics.lines().find_map(|line| line.strip_prefix(&of_type)).expect("every family has a type");
        let suffix = if kind == "counter" { "_total" } else { "" };
        rows.push(format!("| `{name}{suffix}` | {kind} | {} |\n", cell(help.trim_end_matches('.'))));
    }
    rows.sort();
    format!("| metric | type | meaning |\n|---|---|---|\n{}", rows.concat())
}

#[test]
fn the_tables_of_settings_and_metrics_are_those_of_the_code() {
    check(CONFIGURATION, SETTINGS_TABLE, &settings_table());
    check(METRICS, METRICS_TABLE, &metrics_table(&metrics::of_a_used_node()));
}

#[test]
fn every_label_of_the_metrics_is_on_the_page() {
    let (page, metrics) = (page(METRICS), metrics::of_a_used_node());
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let labels = samples.filter_map(|line| line.split_once('{')?.1.split_once('}'));
    let names =
        labels.flat_map(|(labels, _)| labels.split("\",")).filter_map(|label| label.split('=').next());
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "the label {name} is not on the page");
    }
}

/// The commented example that packages install is made by the program itself.
#[test]
fn the_example_configuration_of_packages_is_that_of_the_code() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let generated = daemon::p2p_cache(&["generate", "config", &directory.path().display().to_string()]);
    assert!(generated.status.success());
    let text = fs::read_to_string(directory.path().join("p2p-cache.toml")).expect("the example");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../node/dist/p2p-cache.toml");
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        fs::write(&path, text).expect("the example is written");
    } else {
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(written, text, "rewrite node/dist/p2p-cache.toml with {UPDATE_VARIABLE}=1");
    }
}

#[test]
fn the_example_files_of_the_configuration_page_are_accepted() {
    let page = page(CONFIGURATION);
    let examples: Vec<_> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 2, "an office cache and a laptop");
    let directory = tempfile::tempdir().expect("a temporary directory");
    for example in examples {
        let file = directory.path().join("p2p-cache.toml");
        fs::write(&file, example).expect("the example");
        let checked = daemon::p2p_cache(&["config", "--check", "--config", &file.display().to_string()]);
        assert!(checked.status.success(), "{}\n{example}", String::from_utf8_lossy(&checked.stderr));
    }
}
