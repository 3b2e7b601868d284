-- KEYS: the stream. In a cluster the command TIME asks any server; a script asks the one whose clock stamps the entries.
return redis.call('TIME')
