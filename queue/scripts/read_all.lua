-- KEYS: a stream. ARGV: after, count, bytes, largest entry. Returns the entries behind `after`.
return collect(next_until('+'), unpack(ARGV))
