@echo off
rem Set up what is missing, then play and train: bat\start_model_training.bat [options of run_with_training.py]
rem Needs Python 3.10 or newer. Everything that is installed goes into the folder .venv of the checkout.
rem No blocks in parentheses on purpose: a path with a parenthesis in it would end them.
setlocal EnableExtensions DisableDelayedExpansion
for %%I in ("%~dp0..") do set "checkout=%%~fI"
set "venv=%checkout%\.venv"
set "python_in_venv=%venv%\Scripts\python.exe"
set "installed=%venv%\installed_pyproject.toml"
set "is_new_enough=import sys; sys.exit(sys.version_info < (3, 10))"

rem A virtual environment whose Python is gone, or that was cut short, is made anew.
if not exist "%python_in_venv%" goto find_python
"%python_in_venv%" -c "%is_new_enough%" >nul 2>&1
if errorlevel 1 goto find_python
"%python_in_venv%" -m pip --version >nul 2>&1
if errorlevel 1 goto find_python
goto install

:find_python
set "python=py -3"
%python% -c "%is_new_enough%" >nul 2>&1
if not errorlevel 1 goto make_venv
set "python=python"
%python% -c "%is_new_enough%" >nul 2>&1
if not errorlevel 1 goto make_venv
rem Which of the two it is: "python" may also be the Microsoft Store's stand-in, which runs nothing.
py -3 -c "import sys" >nul 2>&1
if not errorlevel 1 goto too_old
python -c "import sys" >nul 2>&1
if not errorlevel 1 goto too_old
echo [ERROR] No Python was found; 3.10 or newer is needed: https://www.python.org/downloads/
echo         Tick "Add python.exe to PATH" when you install it.
goto failed

:too_old
echo [ERROR] The Python found here is too old; 3.10 or newer is needed: https://www.python.org/downloads/
goto failed

:make_venv
echo [INFO] Making a virtual environment in "%venv%"
%python% -m venv --clear "%venv%"
if errorlevel 1 goto no_venv
goto install

:no_venv
echo [ERROR] No virtual environment could be made, see above.
goto failed

:install
rem The copy of pyproject.toml tells what the last complete installation was for.
if not exist "%installed%" goto install_now
fc /b "%checkout%\pyproject.toml" "%installed%" >nul 2>&1
if not errorlevel 1 goto run

:install_now
echo [INFO] Installing what is needed; this happens once and takes about a minute
pushd "%checkout%"
"%python_in_venv%" -m pip install --quiet --disable-pip-version-check -e ".[games]"
if errorlevel 1 goto not_installed
popd
copy /y "%checkout%\pyproject.toml" "%installed%" >nul
if errorlevel 1 goto failed
goto run

:not_installed
popd
echo [ERROR] The installation failed, see above. Start this again once the cause is gone.
goto failed

:run
"%python_in_venv%" "%checkout%\run_with_training.py" %*
set "exit_code=%errorlevel%"
goto done

:failed
set "exit_code=1"

:done
rem A double click gives no options, and its window would close before anybody has read the end.
if "%~1"=="" if not defined NO_PAUSE pause
exit /b %exit_code%
