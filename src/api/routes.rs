//! The routes of the API: which paths there are, and what each means.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Every route, with the template of its path: what is not in this table is neither served nor described.
pub(super) const ROUTES: [(&str, Route); 10] = [
    ("/v1/health", Route::Health),
    ("/v1/agents", Route::Agents),
    ("/v1/agents/{name}", Route::Agent),
    ("/v1/agents/{name}/screen", Route::Screen),
    ("/v1/agents/{name}/log", Route::Log),
    ("/v1/approvals", Route::Approvals),
    ("/v1/holds", Route::Holds),
    ("/v1/events", Route::Events),
    ("/v1/openapi.json", Route::OpenApi),
    ("/metrics", Route::Metrics),
];

/// What stands for the name of an agent in the template of a path.
const NAME: &str = "{name}";

/// What a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Agents,
    Agent,
    Screen,
    Log,
    Approvals,
    Holds,
    Events,
    OpenApi,
    Metrics,
}

impl Route {
    /// The route of a path, and the name in it, which is empty if there is none.
    pub(super) fn find(path: &str) -> Option<(Self, Cow<'_, str>)> {
        ROUTES.iter().find_map(|&(template, route)| Some((route, name_in(path, template)?)))
    }
}

/// What stands for the name in a path of this template.
fn name_in<'a>(path: &'a str, template: &str) -> Option<Cow<'a, str>> {
    let Some((before, after)) = template.split_once(NAME) else {
        return (path == template).then_some(Cow::Borrowed(""));
    };
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains('/')).then(|| percent_decode_str(name).decode_utf8_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_one_thing_or_nothing() {
        let named = |route, name: &'static str| Some((route, Cow::Borrowed(name)));
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
