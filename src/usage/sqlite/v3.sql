-- A seat in `live` may outlive its session for a moment, for the client's next one; nobody sits in it
-- then, and `record` still names who did.
ALTER TABLE live ADD COLUMN vacant INTEGER NOT NULL DEFAULT 0;
