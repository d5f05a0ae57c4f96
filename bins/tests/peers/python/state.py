"""A family server's state, in memory and, with a directory, in the family's files (misspelt `publishs.jsonl` included)."""

import json
import os


class State:
    def __init__(self, directory=None):
        self.directory = directory
        self.users, self.channels = {}, {}
        self.publications, self.messages = [], []
        if directory:
            os.makedirs(os.path.join(directory, "messages"), exist_ok=True)
            self.users = {user["name"]: user["login_timestamp"] for user in self._load("users.json")}
            self.channels = {channel["name"]: channel["created_timestamp"] for channel in self._load("channels.json")}
            self.publications = self._load_lines("publishs.jsonl")
            self.messages = self._load_lines("messages.jsonl")

    def add_user(self, name, timestamp):
        self.users[name] = timestamp
        self._save("users.json", [{"name": key, "login_timestamp": value} for key, value in self.users.items()])

    def add_channel(self, name, timestamp):
        self.channels[name] = timestamp
        self._save("channels.json", [{"name": key, "created_timestamp": value} for key, value in self.channels.items()])

    def add_publication(self, record):
        self.publications.append(record)
        self._append("publishs.jsonl", record)

    def add_message(self, record):
        self.messages.append(record)
        self._append("messages.jsonl", record)

    def apply(self, kind, data):
        """An event of `replication`. Unknown types are ignored, like unknown fields."""
        if kind == "user_login" and data["user"] not in self.users:
            self.add_user(data["user"], data["timestamp"])
        elif kind == "channel_create" and data["channel"] not in self.channels:
            self.add_channel(data["channel"], data["timestamp"])
        elif kind == "message_publish":
            self.add_publication(data)
        elif kind == "message_send":
            self.add_message(data)

    def dump(self):
        return {
            "users": sorted(self.users),
            "channels": sorted(self.channels),
            "publications": self.publications,
            "messages": self.messages,
        }

    def _path(self, name):
        folder = "messages" if name.endswith(".jsonl") else ""
        return os.path.join(self.directory, folder, name)

    def _load(self, name):
        if not os.path.exists(self._path(name)):
            return []
        with open(self._path(name), encoding="utf-8") as file:
            return json.load(file)

    def _load_lines(self, name):
        if not os.path.exists(self._path(name)):
            return []
        with open(self._path(name), encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def _save(self, name, value):
        if self.directory:
            with open(self._path(name) + ".new", "w", encoding="utf-8") as file:
                json.dump(value, file)
            os.replace(file.name, self._path(name))  # a signal may come at any time

    def _append(self, name, record):
        if self.directory:
            with open(self._path(name), "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
