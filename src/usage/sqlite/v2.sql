-- How many sessions of a client each process has live; the triggers below keep it. It is asked with
-- every session and every block, and a client may have thousands live.
CREATE TABLE slots (
    client TEXT NOT NULL,
    owner TEXT NOT NULL,
    live INTEGER NOT NULL,
    PRIMARY KEY (client, owner)
) STRICT, WITHOUT ROWID;
INSERT INTO slots SELECT client, owner, count(*) FROM live GROUP BY client, owner;
DROP INDEX live_by_client;
DROP INDEX live_by_owner;

CREATE TRIGGER live_entered AFTER INSERT ON live BEGIN
    INSERT INTO slots VALUES (NEW.client, NEW.owner, 1)
    ON CONFLICT DO UPDATE SET live = live + 1;
END;

CREATE TRIGGER live_left AFTER DELETE ON live BEGIN
    UPDATE slots SET live = live - 1 WHERE client = OLD.client AND owner = OLD.owner;
    DELETE FROM slots WHERE client = OLD.client AND owner = OLD.owner AND live <= 0;
END;
