CREATE DATABASE accounts OWNER mlflow;
