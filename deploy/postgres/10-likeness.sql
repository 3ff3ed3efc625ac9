-- Run once by the image, as its superuser, when the volume is empty. The
-- server's own role may do everything in its database and nothing outside;
-- the extension wants a superuser.
\set ON_ERROR_STOP on
\set password `cat /run/secrets/database_password`
CREATE ROLE likeness LOGIN PASSWORD :'password';
CREATE DATABASE likeness OWNER likeness;
REVOKE ALL ON DATABASE likeness FROM PUBLIC;
\connect likeness
CREATE EXTENSION vector;
