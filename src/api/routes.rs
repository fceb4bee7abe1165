//! The routes of the API: which paths there are, and what each means.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::logs::attempt::Output;

/// Every route, with the template of its path: what is not in this table is neither served nor described.
pub(super) const ROUTES: [(&str, Route); 17] = [
    ("/v1/health", Route::Health),
    ("/v1/agents", Route::Agents),
    ("/v1/agents/{name}", Route::Agent),
    ("/v1/agents/{name}/screen", Route::Screen),
    ("/v1/agents/{name}/log", Route::Log),
    ("/v1/runs", Route::Runs),
    ("/v1/runs/{name}/{id}", Route::Run),
    ("/v1/runs/{name}/{id}/stdout", Route::RunOutput(Output::Stdout)),
    ("/v1/runs/{name}/{id}/stderr", Route::RunOutput(Output::Stderr)),
    ("/v1/runs/{name}/{id}/screen", Route::RunScreen),
    ("/v1/runs/{name}/{id}/log", Route::RunLog),
    ("/v1/history", Route::History),
    ("/v1/approvals", Route::Approvals),
    ("/v1/holds", Route::Holds),
    ("/v1/events", Route::Events),
    ("/v1/openapi.json", Route::OpenApi),
    ("/metrics", Route::Metrics),
];

/// What a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Agents,
    Agent,
    Screen,
    Log,
    Runs,
    Run,
    RunOutput(Output),
    RunScreen,
    RunLog,
    History,
    Approvals,
    Holds,
    Events,
    OpenApi,
    Metrics,
}

/// What a path names: an agent, or the agent and the id of a run. Empty where it names none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named<'a> {
    pub(super) agent: Cow<'a, str>,
    pub(super) id: Cow<'a, str>,
}

impl Route {
    /// The route of a path, and what the path names.
    pub(super) fn find(path: &str) -> Option<(Self, Named<'_>)> {
        ROUTES.iter().find_map(|&(template, route)| Some((route, named_in(path, template)?)))
    }
}

/// What a path of this template names: the first place in braces stands for an agent, the second for an id.
fn named_in<'a>(path: &'a str, template: &str) -> Option<Named<'a>> {
    let (mut segments, mut names) = (path.split('/'), Vec::with_capacity(2));
    for wanted in template.split('/') {
        let segment = segments.next()?;
        if wanted.starts_with('{') {
            names.push(Some(segment).filter(|segment| !segment.is_empty())?);
        } else if segment != wanted {
            return None;
        }
    }
    if segments.next().is_some() {
        return None;
    }
    let mut names = names.into_iter().map(|name| percent_decode_str(name).decode_utf8_lossy());
    Some(Named { agent: names.next().unwrap_or_default(), id: names.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_one_thing_or_nothing() {
        let run = |route, agent: &'static str, id: &'static str| {
            Some((route, Named { agent: Cow::Borrowed(agent), id: Cow::Borrowed(id) }))
        };
        let named = |route, name: &'static str| run(route, name, "");
        let agent = |name| named(Route::Agent, name);
        for (path, expected) in [
            ("/metrics", named(Route::Metrics, "")),
            ("/v1/openapi.json", named(Route::OpenApi, "")),
            ("/metrics/", None),
            ("/v1/metrics", None),
            ("/v1/health", named(Route::Health, "")),
            ("/v1/agents", named(Route::Agents, "")),
            ("/v1/agents/claude-code", agent("claude-code")),
            ("/v1/agents/a%20b", agent("a b")),
            ("/v1/agents/a%2Fb", agent("a/b")),
            ("/v1/agents/%C3%A9", agent("é")),
            ("/v1/agents/%ff", agent("\u{fffd}")),
            ("/v1/agents/%", agent("%")),
            ("/v1/agents/", None),
            ("/v1/agents/a/", None),
            ("/v1/agents/a/screen", named(Route::Screen, "a")),
            ("/v1/agents/a%2Fb/screen", named(Route::Screen, "a/b")),
            ("/v1/agents/a/screen/", None),
            ("/v1/agents/a/log", named(Route::Log, "a")),
            ("/v1/agents//screen", None),
            ("/v1/agents/a/b", None),
            ("/v1/runs", named(Route::Runs, "")),
            ("/v1/runs/", None),
            ("/v1/runs/fixer", None),
            ("/v1/runs/fixer/", None),
            ("/v1/runs//t1", None),
            ("/v1/runs/fixer/t1", run(Route::Run, "fixer", "t1")),
            ("/v1/runs/a%2Fb/c%20d", run(Route::Run, "a/b", "c d")),
            ("/v1/runs/fixer/t1/", None),
            ("/v1/runs/fixer/t1/stdout", run(Route::RunOutput(Output::Stdout), "fixer", "t1")),
            ("/v1/runs/fixer/t1/stderr", run(Route::RunOutput(Output::Stderr), "fixer", "t1")),
            ("/v1/runs/fixer/t1/screen", run(Route::RunScreen, "fixer", "t1")),
            ("/v1/runs/fixer/t1/log", run(Route::RunLog, "fixer", "t1")),
            ("/v1/runs/fixer/t1/stdin", None),
            ("/v1/runs/fixer/stdout", run(Route::Run, "fixer", "stdout")),
            ("/v1/history", named(Route::History, "")),
            ("/v1/history/fixer", None),
            ("/v1/holds", named(Route::Holds, "")),
            ("/v1/events", named(Route::Events, "")),
            ("/v1/events/", None),
            ("/v1/approvals", named(Route::Approvals, "")),
            ("/v1/approvals/x", None),
            ("/v1/health/", None),
            ("/V1/health", None),
            ("/v1", None),
            ("/", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(Route::find(path), expected, "{path}");
        }
    }
}
