-- KEYS: the stream. In a cluster the command TIME goes to any server; a script runs where the clock stamps the entries.
return now_ms
