//! Whether the machine runs on its battery.

use std::fs;
use std::path::Path;

/// Where the kernel lists power supplies.
pub(in crate::nix_store) const POWER_SUPPLIES: &str = "/sys/class/power_supply";

/// True when a battery of the machine is being discharged and nothing feeds it. False where nothing is known, as on
/// most servers. Batteries of mice and the like do not count.
pub(super) fn on_battery(supplies: &Path) -> bool {
    let Ok(entries) = fs::read_dir(supplies) else { return false };
    let mut discharging = false;
    for entry in entries.flatten() {
        let read = |name| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let is = |name, value: &str| read(name).trim() == value;
        if is("scope", "Device") {
            continue;
        }
        match read("type").trim() {
            "Battery" | "UPS" => discharging |= is("status", "Discharging"),
            _ if is("online", "1") => return false,
            _ => {}
        }
    }
    discharging
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these supplies: name, and files with their contents.
    fn supplies(list: &[(&str, &[(&str, &str)])]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, files) in list {
            let supply = directory.path().join(name);
            fs::create_dir(&supply).unwrap();
            for (file, contents) in *files {
                fs::write(supply.join(file), format!("{contents}\n")).unwrap();
            }
        }
        directory
    }

    #[test]
    fn only_a_machine_that_drains_its_own_battery_is_on_battery() {
        let battery = |status| ("BAT0", [("type", "Battery"), ("status", status)]);
        let mains = |online| ("AC", [("type", "Mains"), ("online", online)]);
        let (draining, full) = (battery("Discharging"), battery("Full"));
        let (plugged, unplugged) = (mains("1"), mains("0"));
        let of =
            |(name, files): &(&'static str, [(&'static str, &'static str); 2])| (*name, Vec::from(files));
        for (list, expected) in [
            (vec![], false),
            (vec![of(&draining), of(&unplugged)], true),
            (vec![of(&draining)], true),
            // A dock that feeds less than the machine takes.
            (vec![of(&draining), of(&plugged)], false),
            (vec![of(&full), of(&unplugged)], false),
            (vec![of(&plugged)], false),
        ] {
            let list: Vec<_> = list.iter().map(|(name, files)| (*name, files.as_slice())).collect();
            assert_eq!(on_battery(supplies(&list).path()), expected, "{list:?}");
        }
        let mouse = [("type", "Battery"), ("scope", "Device"), ("status", "Discharging")];
        assert!(!on_battery(supplies(&[("hidpp_battery_0", &mouse[..])]).path()));
        assert!(!on_battery(Path::new("/nonexistent")));
    }
}
