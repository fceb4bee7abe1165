//! The time zones of schedules, as the machine's database has them.
//!
//! They are looked up with every look at the inputs: rules of zones change, and so does the zone of a machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::agent::run::Template;
use crate::agent::schedule::{Schedule, Zone};
use crate::agent::spec::Policy;
use crate::config::Config;
use crate::sys::local_time;

/// The rules of each zone that a schedule names, or why they are not known. `None` is the machine's.
pub type Zones = BTreeMap<Option<String>, Result<TimeZone, String>>;

/// The zones that schedules of a jcard name.
pub fn named(config: &Config) -> BTreeSet<Option<String>> {
    let specs = config.entries.iter().filter_map(|entry| entry.spec.as_ref().ok());
    specs.filter_map(|spec| Some(schedule(&spec.policy)?.zone.name.clone())).collect()
}

/// Looks up these zones. Blocks.
pub fn read(names: BTreeSet<Option<String>>) -> Zones {
    let rules = |name: Option<String>| {
        let rules = local_time::rules(name.as_deref()).map_err(|error| error.to_string());
        (name, rules)
    };
    names.into_iter().map(rules).collect()
}

/// A policy whose schedule knows its zone.
///
/// # Errors
///
/// The zone is not known.
pub fn resolved(policy: &Policy, zones: &Zones) -> Result<Policy, String> {
    let Some((template, schedule)) = policy.template.as_ref().zip(schedule(policy)) else { return Ok(policy.clone()) };
    let name = &schedule.zone.name;
    let rules = zones.get(name).ok_or_else(|| "its time zone was not looked up yet".to_owned())?;
    let zone = Zone { name: name.clone(), rules: rules.clone()? };
    let schedule = Some(Schedule { zone, ..schedule.clone() });
    let template = Template { schedule, ..Template::clone(template) };
    Ok(Policy { template: Some(Arc::new(template)), ..policy.clone() })
}

/// What is to be said of a policy whose zone is not known.
///
/// # Errors
///
/// The zone is not known.
pub fn schedule_here(policy: &Policy) -> Result<Option<Schedule>, String> {
    let Some(schedule) = schedule(policy) else { return Ok(None) };
    let name = schedule.zone.name.clone();
    let policy = resolved(policy, &read([name].into()))?;
    Ok(policy.template.and_then(|template| template.schedule.clone()))
}

fn schedule(policy: &Policy) -> Option<&Schedule> {
    policy.template.as_ref()?.schedule.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Options};

    fn config(zone: &str) -> Config {
        let text = format!(
            "[agent]\nharness = \"codex\"\nprompt = \"x\"\n[agent.runs]\nschedule = \"@daily\"\ntime_zone = \"{zone}\"\n"
        );
        config::parse(text.as_bytes(), &Options::default()).unwrap()
    }

    #[test]
    fn a_schedule_gets_the_rules_of_its_zone() {
        let config = config("Pacific/Nowhere");
        let policy = &config.entries[0].spec.as_ref().unwrap().policy;
        assert_eq!(named(&config), [Some("Pacific/Nowhere".to_owned())].into());
        let rules = TimeZone::posix("X-5").unwrap();
        let zones: Zones = [(Some("Pacific/Nowhere".to_owned()), Ok(rules.clone()))].into();
        let resolved = resolved(policy, &zones).unwrap();
        assert_eq!(schedule(&resolved).unwrap().zone.rules, rules);
    }

    #[test]
    fn a_zone_that_is_not_known_is_an_error() {
        let config = config("Pacific/Nowhere");
        let policy = &config.entries[0].spec.as_ref().unwrap().policy;
        let error = resolved(policy, &read(named(&config))).unwrap_err();
        assert!(error.contains("\"Pacific/Nowhere\""), "{error}");
        assert_eq!(schedule_here(policy).unwrap_err(), error);
    }
}
