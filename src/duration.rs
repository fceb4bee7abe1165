//! Durations as jcards and command lines write them: Go's grammar first, humantime's after it.
