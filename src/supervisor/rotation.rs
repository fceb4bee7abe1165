//! Rotation: carries out what the [roll](crate::agent::rotation) over all agents decides.

use std::collections::BTreeMap;

use super::{Agent, Course, Supervisor};
use crate::agent::machine::{self, Machine};
use crate::agent::name::Key;
use crate::agent::rotation::{Member, Step, roll};
use crate::sys::clock::Timestamp;
use crate::wire::events::What;
use crate::wire::status::{PendingRotation, RotationCause, Time};

impl Supervisor {
    /// Launches again whose turn it is to have new secrets, and notes what the others wait for.
    pub(super) fn roll(&mut self) {
        self.roll_due = None;
        let now = Timestamp::now();
        let is_any = self.agents.values().any(|agent| agent.machine.has_pending());
        let steps =
            if is_any && self.course == Course::Running { roll(&self.members(now), now) } else { BTreeMap::new() };
        for (key, step) in &steps {
            if *step == Step::Rotate {
                self.step(key, machine::Event::Rotate);
            }
        }
        let untils = steps.values().filter_map(|step| match step {
            Step::Rotate => None,
            Step::Wait { until, .. } => *until,
        });
        self.roll_due = untils.min();
        for (key, agent) in &mut self.agents {
            let rotation = steps.get(key).and_then(|step| waiting(&agent.machine, step));
            if agent.rotation != rotation {
                let before = std::mem::replace(&mut agent.rotation, rotation);
                self.afterwards.publish = true;
                if what_matters(before.as_ref()) != what_matters(agent.rotation.as_ref()) {
                    tell(agent);
                    let (name, rotation) = (agent.machine.name().to_string(), agent.rotation.clone());
                    self.happened.push(What::Rotation { name, rotation });
                }
            }
        }
    }

    fn members(&self, now: Timestamp) -> BTreeMap<Key, Member> {
        let member = |(key, agent): (&Key, &Agent)| {
            let barred_by = self.barred_by(key, &agent.machine, now);
            Some((key.clone(), Member { barred_by, ..agent.machine.member()? }))
        };
        self.agents.iter().filter_map(member).collect()
    }
}

/// What of a rotation is worth an event. Whose turn it is changes with each agent of a roll, and the events of that agent say it.
fn what_matters(rotation: Option<&PendingRotation>) -> Option<(&RotationCause, &[String], Time)> {
    rotation.map(|rotation| (&rotation.cause, &rotation.secrets[..], rotation.since))
}

/// What the API says of a rotation that waits.
fn waiting(machine: &Machine, step: &Step) -> Option<PendingRotation> {
    let Step::Wait { why, until } = step else { return None };
    let pending = machine.member()?.pending?;
    Some(PendingRotation {
        pending: true,
        why: why.to_string(),
        cause: why.cause(),
        secrets: pending.secrets.into_iter().collect(),
        since: Time(pending.since.wall()),
        until: until.map(|at| Time(at.wall())),
    })
}

fn tell(agent: &Agent) {
    if let Some(rotation) = &agent.rotation {
        let (name, secrets) = (agent.machine.name(), rotation.secrets.join(" "));
        tracing::info!(agent = %name, secrets, "new values of secrets wait: {}", rotation.why);
    }
}
