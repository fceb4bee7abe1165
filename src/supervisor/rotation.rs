//! Rotation: carries out what the [roll](crate::agent::rotation) over all agents decides.

use std::collections::BTreeMap;

use super::{Agent, Course, Supervisor};
use crate::agent::machine::{self, Machine};
use crate::agent::name::Key;
use crate::agent::rotation::{Member, Step, roll};
use crate::sys::clock::Timestamp;
use crate::wire::events::What;
use crate::wire::status::{PendingRotation, Time};

impl Supervisor {
    /// Launches again whose turn it is to have new secrets, and notes what the others wait for.
    pub(super) fn roll(&mut self) {
        self.roll_due = None;
        let members: BTreeMap<Key, Member> =
            self.agents.iter().filter_map(|(key, agent)| Some((key.clone(), agent.machine.member()?))).collect();
        let is_any = members.values().any(|member| member.pending.is_some());
        let now = Timestamp::now();
        let steps = if is_any && self.course == Course::Running { roll(&members, now) } else { BTreeMap::new() };
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
                tell(agent, rotation.as_ref());
                agent.rotation.clone_from(&rotation);
                self.happened.push(What::Rotation { name: agent.machine.name().to_string(), rotation });
                self.afterwards.publish = true;
            }
        }
    }
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

fn tell(agent: &Agent, rotation: Option<&PendingRotation>) {
    if let Some(rotation) = rotation {
        let (name, secrets) = (agent.machine.name(), rotation.secrets.join(" "));
        tracing::info!(agent = %name, secrets, "new values of secrets wait: {}", rotation.why);
    }
}
