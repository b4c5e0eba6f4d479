-- The sums of a day are kept by who enters rows in the ledger, for all rows of a transaction at once.
DROP TRIGGER ledger_entered;
