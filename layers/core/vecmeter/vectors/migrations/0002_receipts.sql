-- What each recent write did, kept in the write's own transaction. Where a connection breaks before the answer has
-- come, the row tells whether the write took place, and its key keeps a repetition from taking place as well.
-- The first half of the number is the time it was made, so that new rows end the index and old ones are one range.
CREATE TABLE vecmeter.receipts (
    receipt_id uuid PRIMARY KEY,
    answer     bigint[] NOT NULL
);
