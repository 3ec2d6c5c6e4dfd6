"""The methods that come with hashcli; one file each, found through entry points like anyone's."""
