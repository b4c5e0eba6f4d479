-- Counters. `start` is the window's first second, Unix time; `used` counts characters, thousandths
-- of a credit, or session starts.
CREATE TABLE windows (
    client TEXT NOT NULL,
    kind TEXT NOT NULL,
    start INTEGER NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (client, kind, start)
) STRICT, WITHOUT ROWID;

-- Processes and until when each is taken to be alive, Unix milliseconds.
CREATE TABLE owners (
    id TEXT PRIMARY KEY,
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Live sessions: `reserved` characters, and the ledger row as far as it is known, as JSON.
CREATE TABLE live (
    session TEXT PRIMARY KEY,
    client TEXT NOT NULL,
    owner TEXT NOT NULL,
    reserved INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX live_by_client ON live (client);
CREATE INDEX live_by_owner ON live (owner);

-- The ledger. Times are Unix milliseconds.
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    session TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    plan TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    voice TEXT NOT NULL,
    model TEXT NOT NULL,
    format TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    characters_asked INTEGER NOT NULL,
    characters_forwarded INTEGER NOT NULL,
    characters_refused INTEGER NOT NULL,
    milli_credits INTEGER NOT NULL,
    audio_ms INTEGER NOT NULL,
    messages_up INTEGER NOT NULL,
    messages_down INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    first_audio_ms INTEGER,
    ending TEXT NOT NULL,
    close_code INTEGER NOT NULL,
    trace_id TEXT,
    outcome TEXT NOT NULL CHECK (outcome IN ('ended', 'refused', 'lost'))
) STRICT;

-- Sums of the ledger per day on which sessions started (days since 1970-01-01): a month's usage is
-- read from here, whatever the size of the ledger. The triggers below keep them.
CREATE TABLE daily (
    day INTEGER NOT NULL,
    client TEXT NOT NULL,
    model TEXT NOT NULL,
    voice TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    characters INTEGER NOT NULL,
    characters_asked INTEGER NOT NULL,
    characters_refused INTEGER NOT NULL,
    milli_credits INTEGER NOT NULL,
    audio_ms INTEGER NOT NULL,
    messages_up INTEGER NOT NULL,
    messages_down INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    PRIMARY KEY (day, client, model, voice)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER ledger_entered AFTER INSERT ON ledger BEGIN
    INSERT INTO daily VALUES (
        NEW.started_ms / 86400000, NEW.client, NEW.model, NEW.voice,
        NEW.outcome <> 'refused', NEW.outcome = 'lost', NEW.outcome = 'refused',
        NEW.characters_forwarded, NEW.characters_asked, NEW.characters_refused, NEW.milli_credits,
        NEW.audio_ms, NEW.messages_up, NEW.messages_down, NEW.bytes_up, NEW.bytes_down
    ) ON CONFLICT DO UPDATE SET
        sessions = sessions + excluded.sessions,
        lost = lost + excluded.lost,
        refused = refused + excluded.refused,
        characters = characters + excluded.characters,
        characters_asked = characters_asked + excluded.characters_asked,
        characters_refused = characters_refused + excluded.characters_refused,
        milli_credits = milli_credits + excluded.milli_credits,
        audio_ms = audio_ms + excluded.audio_ms,
        messages_up = messages_up + excluded.messages_up,
        messages_down = messages_down + excluded.messages_down,
        bytes_up = bytes_up + excluded.bytes_up,
        bytes_down = bytes_down + excluded.bytes_down;
END;

-- A session that was taken for lost and yet ended is corrected in place; session, client, start,
-- model and voice stay as they are.
CREATE TRIGGER ledger_corrected AFTER UPDATE ON ledger BEGIN
    UPDATE daily SET
        sessions = sessions + (NEW.outcome <> 'refused') - (OLD.outcome <> 'refused'),
        lost = lost + (NEW.outcome = 'lost') - (OLD.outcome = 'lost'),
        refused = refused + (NEW.outcome = 'refused') - (OLD.outcome = 'refused'),
        characters = characters + NEW.characters_forwarded - OLD.characters_forwarded,
        characters_asked = characters_asked + NEW.characters_asked - OLD.characters_asked,
        characters_refused = characters_refused + NEW.characters_refused - OLD.characters_refused,
        milli_credits = milli_credits + NEW.milli_credits - OLD.milli_credits,
        audio_ms = audio_ms + NEW.audio_ms - OLD.audio_ms,
        messages_up = messages_up + NEW.messages_up - OLD.messages_up,
        messages_down = messages_down + NEW.messages_down - OLD.messages_down,
        bytes_up = bytes_up + NEW.bytes_up - OLD.bytes_up,
        bytes_down = bytes_down + NEW.bytes_down - OLD.bytes_down
    WHERE day = OLD.started_ms / 86400000
        AND client = OLD.client AND model = OLD.model AND voice = OLD.voice;
END;

-- Keys are SHA-256 digests; no token is ever stored. Times are Unix milliseconds.
CREATE TABLE tokens (
    key BLOB PRIMARY KEY,
    record TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE revoked (
    key BLOB PRIMARY KEY,
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
