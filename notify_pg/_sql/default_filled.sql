SELECT EXISTS (SELECT FROM {events_default}) AS filled
