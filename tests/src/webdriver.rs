//! A real browser without a window, driven by WebDriver.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// How the driver says where it listens.
const STARTED: &str = "was started successfully on port ";
/// What Chromium is called, by distribution.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser with one page; closed when dropped.
pub struct Browser {
    driver: Child,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    session: String,
}

impl Browser {
    /// `None`, and the reason is printed, where there is no browser or nothing to drive it.
    pub fn start() -> Option<Self> {
        let Some(binary) = BROWSERS.iter().find_map(|name| in_path(name)) else {
            println!("skipped: there is no Chromium (apt install chromium)");
            return None;
        };
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut driver) = command.spawn() else {
            println!("skipped: there is no chromedriver (apt install chromium-driver)");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, port) = line.split_once(STARTED)?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let port = port.expect("the driver says where it listens");
        std::thread::spawn(move || lines.for_each(drop));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut browser =
            Self { driver, runtime, client, session: format!("http://127.0.0.1:{port}/session") };
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let made = browser.post(
            "",
            &json!({ "capabilities": { "alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": { "args": arguments, "binary": binary },
                "goog:loggingPrefs": { "browser": "ALL" },
            } } }),
        );
        let id = made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}"));
        browser.session = format!("{}/{id}", browser.session);
        Some(browser)
    }

    fn send(&self, request: reqwest::RequestBuilder) -> Value {
        self.runtime.block_on(async {
            let answer = request.send().await.expect("the driver answers");
            let answer: Value = answer.json().await.expect("JSON");
            answer["value"].clone()
        })
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.send(self.client.post(format!("{}{path}", self.session)).json(body))
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&self, url: &str) {
        let opened = self.post("/url", &json!({ "url": url }));
        assert!(opened.is_null(), "{opened}");
    }

    /// The value of a JavaScript expression.
    pub fn value(&self, expression: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": format!("return {expression};"), "args": [] }))
    }

    /// The text of the element with this id, as it is shown.
    pub fn text(&self, id: &str) -> String {
        let text = self.value(&format!("document.getElementById({id:?}).innerText"));
        text.as_str().unwrap_or_else(|| panic!("no text in #{id}: {text}")).to_owned()
    }

    /// Gives the window this size in pixels.
    pub fn resize(&self, width: u32, height: u32) {
        self.post("/window/rect", &json!({ "width": width, "height": height }));
    }

    /// A picture of the page, as PNG in Base64.
    pub fn screenshot(&self) -> String {
        let taken = self.send(self.client.get(format!("{}/screenshot", self.session)));
        taken.as_str().unwrap_or_default().to_owned()
    }

    /// What the page and the browser complained about since the last call.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().unwrap_or_else(|| panic!("no log: {log}"));
        entries.iter().filter(|entry| entry["level"] != "INFO").map(ToString::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser is a child of the driver and outlives it otherwise.
        if !std::thread::panicking() {
            self.send(self.client.delete(&self.session));
        } else {
            let ending = self.client.delete(&self.session).send();
            let _ = self.runtime.block_on(ending);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn in_path(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}
