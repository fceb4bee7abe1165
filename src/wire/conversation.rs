//! The conversation that an attempt is in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a harness keeps of its work under an id, so that a later attempt can go on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conversation {
    /// Its id. Absent as long as the harness has not told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether the present or latest attempt resumed it.
    #[serde(default)]
    pub resumed: bool,
    /// What is remarkable about it, as a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
